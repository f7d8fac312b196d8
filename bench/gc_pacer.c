/*
 * gc_pacer.c
 *	  Produces records to Kafka at an even rate, and consumes them beside it: how fresh is what a
 *	  plain consumer sees?
 *
 *		gc_pacer BOOTSTRAP TOPIC PARTITIONS RATE FIRST COUNT [BYTES]
 *
 * The orders of bench/measures_ingest.sh, numbered from FIRST: key "o-N" in partition N %
 * PARTITIONS, modifiedAt the time of producing, in microseconds, of the machine's clock. RATE is
 * records a second, 0 as fast as the broker takes them. BYTES pads payloads to that length.
 *
 * With a RATE a second thread consumes the topic meanwhile, from where it ended before, and a
 * line "P50 P99 MAX" with the milliseconds from produce() to the return of consume() goes to
 * standard output. Settings are librdkafka's defaults, but for a RATE of 0, where batches are
 * larger.
 *
 * Any failure is a message on standard error and status 1.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define WAIT_MS		60000
#define LARGEST		100000

static const char *topic;
static int	npartitions;
static int64_t first;
static int64_t count;
static int64_t *sent;			/* microseconds, by number - first */
static double *latency;			/* milliseconds */

static void fail(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));

static void
fail(const char *format,...)
{
	va_list		args;

	fprintf(stderr, "gc_pacer: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	_Exit(1);
}

static int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		fail("%s", error);
}

static rd_kafka_t *
handle(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char		error[512];
	rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof(error));

	if (rk == NULL)
		fail("%s", error);
	return rk;
}

/* Called by rd_kafka_poll() and rd_kafka_flush(), in our own thread. */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (message->err)
		fail("%s", rd_kafka_err2str(message->err));
}

/* The consumer, at the end of every partition. */
static rd_kafka_t *
start_consumer(const char *bootstrap)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(npartitions);
	rd_kafka_t *rk;

	set(conf, "bootstrap.servers", bootstrap);
	set(conf, "group.id", "gc_pacer");
	set(conf, "enable.auto.commit", "false");
	rk = handle(RD_KAFKA_CONSUMER, conf);
	for (int i = 0; i < npartitions; i++)
	{
		int64_t		low;
		int64_t		high;
		rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(rk, topic, i, &low, &high, WAIT_MS);

		if (err)
			fail("%s", rd_kafka_err2str(err));
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = high;
	}
	if (rd_kafka_assign(rk, list))
		fail("cannot assign");
	rd_kafka_topic_partition_list_destroy(list);
	/* nobody writes yet: it connects meanwhile */
	if (rd_kafka_consumer_poll(rk, 1000) != NULL)
		fail("somebody else writes to the topic");
	return rk;
}

static void *
consume(void *arg)
{
	rd_kafka_t *rk = arg;

	for (int64_t n = 0; n < count; n++)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, WAIT_MS);
		int64_t		at = now();
		char		key[32] = "";
		int64_t		i;

		if (message == NULL)
			fail("no record in a minute");
		if (message->err)
			fail("%s", rd_kafka_message_errstr(message));
		memcpy(key, message->key, message->key_len < sizeof(key) - 1 ? message->key_len : sizeof(key) - 1);
		i = strtoll(key + 2, NULL, 10) - first;
		if (i < 0 || i >= count)
			fail("a record of somebody else: %s", key);
		latency[i] = (at - sent[i]) / 1000.0;
		rd_kafka_message_destroy(message);
	}
	return NULL;
}

static void
produce(rd_kafka_t *rk, int64_t i, int bytes)
{
	static char value[LARGEST + 512];
	char		key[32];
	char		second[32];
	int64_t		n = first + i;
	time_t		t;
	int			length;
	rd_kafka_resp_err_t err;

	snprintf(key, sizeof(key), "o-%lld", (long long) n);
	sent[i] = now();
	t = sent[i] / 1000000;
	strftime(second, sizeof(second), "%Y-%m-%dT%H:%M:%S", gmtime(&t));
	length = snprintf(value, 512, "{\"ref\":\"%s\",\"guestRef\":\"g-%lld\",\"status\":\"PAID\",\"total\":%lld.99,"
					  "\"modifiedAt\":\"%s.%06dZ\"", key, (long long) n % 1000, (long long) n % 500, second, (int) (sent[i] % 1000000));
	if (bytes > length + 11)
	{
		length += snprintf(value + length, 512, ",\"note\":\"");
		for (; length < bytes - 2; length++)
			value[length] = 'a' + (n + length) * 2654435761U % 26;
		value[length++] = '"';
	}
	value[length++] = '}';
	while ((err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION((int32_t) (n % npartitions)),
									RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(key, strlen(key)),
									RD_KAFKA_V_VALUE(value, length), RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		rd_kafka_poll(rk, 100);
	if (err)
		fail("%s", rd_kafka_err2str(err));
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *producer;
	rd_kafka_t *consumer = NULL;
	const struct rd_kafka_metadata *metadata;
	pthread_t	thread;
	double		rate;
	int			bytes;
	int64_t		began;

	if (argc < 7)
		fail("usage: gc_pacer BOOTSTRAP TOPIC PARTITIONS RATE FIRST COUNT [BYTES]");
	topic = argv[2];
	npartitions = atoi(argv[3]);
	rate = atof(argv[4]);
	first = atoll(argv[5]);
	count = atoll(argv[6]);
	bytes = argc > 7 ? atoi(argv[7]) : 0;
	if (npartitions < 1 || rate < 0 || first < 0 || count < 1 || bytes < 0 || bytes > LARGEST)
		fail("a number is out of range");
	sent = calloc(count, sizeof(int64_t));
	latency = calloc(count, sizeof(double));
	if (sent == NULL || latency == NULL)
		fail("out of memory");

	set(conf, "bootstrap.servers", argv[1]);
	set(conf, "log_level", "3");	/* a broker that has just started loads something for a moment */
	set(conf, "enable.idempotence", "true");	/* each record once, whatever is retried */
	if (rate == 0)
		set(conf, "linger.ms", "50");
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	producer = handle(RD_KAFKA_PRODUCER, conf);
	if (rd_kafka_metadata(producer, 1, NULL, &metadata, WAIT_MS))
		fail("no broker answers");
	rd_kafka_metadata_destroy(metadata);
	if (rate > 0)
	{
		consumer = start_consumer(argv[1]);
		if (pthread_create(&thread, NULL, consume, consumer) != 0)
			fail("no thread");
	}
	began = now();
	for (int64_t i = 0; i < count; i++)
	{
		if (rate > 0)
		{
			int64_t		wait = began + (int64_t) (i * 1000000 / rate) - now();

			if (wait > 0)
			{
				struct timespec t = {.tv_sec = wait / 1000000, .tv_nsec = wait % 1000000 * 1000};

				nanosleep(&t, NULL);
			}
		}
		produce(producer, i, bytes);
		if (i % 50 == 0)
			rd_kafka_poll(producer, 0);
	}
	if (rd_kafka_flush(producer, WAIT_MS))
		fail("not all records were delivered");
	rd_kafka_destroy(producer);
	if (consumer != NULL)
	{
		pthread_join(thread, NULL);
		rd_kafka_destroy(consumer);
		qsort(latency, count, sizeof(double), compare);
		printf("%.3f %.3f %.3f\n", latency[(count - 1) / 2], latency[(count - 1) * 99 / 100], latency[count - 1]);
	}
	return 0;
}
