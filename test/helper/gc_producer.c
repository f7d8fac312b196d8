/*
 * gc_producer.c
 *	  Writes records to Kafka as told, byte for byte: the producer of the tests.
 *
 * test/lib/Kafka.pm runs it. kcat cannot do the same: it gives all records the
 * time of now and the same headers, knows no transactions, and splits its input at
 * a byte that then no record can have.
 *
 *		gc_producer [-t TRANSACTIONAL_ID] NAME=VALUE...
 *
 * with librdkafka's settings. Reads commands from standard input, one a line:
 *
 *		r TOPIC PARTITION TIME KEY VALUE [NAME VALUE]...	a record
 *		begin | commit | abort					with -t
 *		flush
 *
 * PARTITION -1 lets the key decide, TIME (milliseconds) -1 is now. Keys, values, names
 * and values of headers are in hex after an "x"; "-" is null. The answer to "flush",
 * "commit" and "abort" is a line "PARTITION OFFSET" for each record since the last of
 * them, in their order, and a line with the command. "begin" is answered too. The end
 * of the input flushes, and leaves an open transaction open: the broker waits for it
 * until transaction.timeout.ms has passed.
 *
 * Any failure is a line "error ..." on standard output and status 1.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <librdkafka/rdkafka.h>

#define WAIT_MS		30000
#define MAX_WORDS	4096

typedef struct Report
{
	int32_t		partition;
	int64_t		offset;
	rd_kafka_resp_err_t err;
} Report;

static rd_kafka_t *producer;
static Report *reports;
static size_t n_reports;
static size_t max_reports;

static void fail(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));

static void
fail(const char *format,...)
{
	va_list		args;

	printf("error ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	/* no clean end: it would wait for a broker that may be gone */
	_Exit(1);
}

static void
check(rd_kafka_error_t *error, const char *what)
{
	if (error)
		fail("%s: %s", what, rd_kafka_error_string(error));
}

/* Called by rd_kafka_poll() and rd_kafka_flush(), in our own thread. */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	Report	   *report = &reports[(uintptr_t) message->_private];

	(void) rk;
	(void) opaque;
	report->partition = message->partition;
	report->offset = message->offset;
	report->err = message->err;
}

/* Likewise. Who is not let in need not wait for the end of all time-outs. */
static void
on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__SSL)
		fail("%s", reason);
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	fail("\"%c\" is no hex digit", c);
}

/* Decodes a word where it stands; NULL is null. */
static char *
bytes(char *word, size_t *length)
{
	size_t		n;

	*length = 0;
	if (strcmp(word, "-") == 0)
		return NULL;
	if (word[0] != 'x' || strlen(word) % 2 == 0)
		fail("\"%.20s\" is not x and pairs of hex digits", word);
	n = (strlen(word) - 1) / 2;
	for (size_t i = 0; i < n; i++)
		word[i] = (char) (hex_digit(word[1 + 2 * i]) << 4 | hex_digit(word[2 + 2 * i]));
	word[n] = '\0';
	*length = n;
	return word;
}

static void
produce(char **words, int n)
{
	rd_kafka_headers_t *headers = NULL;
	size_t		key_length,
				value_length;
	char	   *key,
			   *value;
	int64_t		time;

	if (n < 6 || n % 2 != 0)
		fail("a record needs topic, partition, time, key, value and pairs for headers");
	time = strtoll(words[3], NULL, 10);
	key = bytes(words[4], &key_length);
	value = bytes(words[5], &value_length);
	if (n > 6)
		headers = rd_kafka_headers_new((size_t) (n - 6) / 2);
	for (int i = 6; i < n; i += 2)
	{
		size_t		name_length,
					length;
		char	   *name = bytes(words[i], &name_length);
		char	   *content = bytes(words[i + 1], &length);

		if (name == NULL)
			fail("the name of a header cannot be null");
		if (rd_kafka_header_add(headers, name, (ssize_t) name_length, content, (ssize_t) length))
			fail("cannot add a header");
	}

	if (n_reports == max_reports)
	{
		max_reports = max_reports ? 2 * max_reports : 1024;
		reports = realloc(reports, max_reports * sizeof(Report));
		if (reports == NULL)
			fail("out of memory");
	}
	reports[n_reports] = (Report) {.offset = -1, .err = RD_KAFKA_RESP_ERR__IN_PROGRESS};

	for (;;)
	{
		/* a time of 0 is now to librdkafka, which -1 would not be */
		rd_kafka_error_t *error = NULL;
		rd_kafka_vu_t vus[] = {
			{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = words[1]},
			{.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = (int32_t) strtol(words[2], NULL, 10)},
			{.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = time < 0 ? 0 : time},
			{.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {key, key_length}},
			{.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {value, value_length}},
			{.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
			{.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = (void *) (uintptr_t) n_reports},
			{.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
		};

		error = rd_kafka_produceva(producer, vus, sizeof(vus) / sizeof(vus[0]) - (headers ? 0 : 1));
		if (error == NULL)
			break;
		if (rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			check(error, "cannot produce");
		rd_kafka_error_destroy(error);
		rd_kafka_poll(producer, 100);
	}
	n_reports++;
	rd_kafka_poll(producer, 0);
}

/* Waits for the records of before, and says where they are. */
static void
flush_records(void)
{
	rd_kafka_resp_err_t err = rd_kafka_flush(producer, WAIT_MS);

	if (err)
		fail("flush: %s", rd_kafka_err2str(err));
	for (size_t i = 0; i < n_reports; i++)
	{
		if (reports[i].err)
			fail("record %zu: %s", i, rd_kafka_err2str(reports[i].err));
		printf("%d %lld\n", (int) reports[i].partition, (long long) reports[i].offset);
	}
	n_reports = 0;
}

static void
run_line(char *line)
{
	char	   *words[MAX_WORDS];
	char	   *rest = NULL;
	int			n = 0;

	for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
	{
		if (n == MAX_WORDS)
			fail("too many words");
		words[n++] = word;
	}
	if (n == 0)
		return;
	if (strcmp(words[0], "r") == 0)
	{
		produce(words, n);
		return;
	}
	if (strcmp(words[0], "begin") == 0)
		check(rd_kafka_begin_transaction(producer), "begin");
	else
	{
		flush_records();
		if (strcmp(words[0], "commit") == 0)
			check(rd_kafka_commit_transaction(producer, WAIT_MS), "commit");
		else if (strcmp(words[0], "abort") == 0)
			check(rd_kafka_abort_transaction(producer, WAIT_MS), "abort");
		else if (strcmp(words[0], "flush") != 0)
			fail("unknown command \"%s\"", words[0]);
	}
	printf("%s\n", words[0]);
	fflush(stdout);
}

static void
configure(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		fail("%s", error);
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool		transactional = false;
	char	   *line = NULL;
	size_t		size = 0;
	char		error[512];

	/* keys go where Java's producer puts them */
	configure(conf, "partitioner", "murmur2_random");
	configure(conf, "acks", "all");
	configure(conf, "message.timeout.ms", "30000");
	/* what goes wrong is in the answer */
	configure(conf, "log_level", "2");
	for (int i = 1; i < argc; i++)
	{
		char	   *value = strchr(argv[i], '=');

		if (strcmp(argv[i], "-t") == 0 && i + 1 < argc)
		{
			configure(conf, "transactional.id", argv[++i]);
			transactional = true;
			continue;
		}
		if (value == NULL)
			fail("\"%s\" is not NAME=VALUE", argv[i]);
		*value++ = '\0';
		configure(conf, argv[i], value);
	}
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rd_kafka_conf_set_error_cb(conf, on_error);
	producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (producer == NULL)
		fail("%s", error);
	if (transactional)
		check(rd_kafka_init_transactions(producer, WAIT_MS), "cannot begin to use the transactional id");

	while (getline(&line, &size, stdin) > 0)
		run_line(line);
	flush_records();
	fflush(stdout);
	free(line);
	free(reports);
	rd_kafka_destroy(producer);
	return 0;
}
