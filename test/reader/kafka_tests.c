/*
 * kafka_tests.c: the source 'kafka', against the library's mock cluster in this process.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <unistd.h>

#define BROKERS 2

static rd_kafka_t *host;		/* of the cluster */
static rd_kafka_t *producer;
static rd_kafka_mock_cluster_t *mock;

static rd_kafka_t *
new_producer(const char *servers)
{
	char		text[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	rd_kafka_conf_set(conf, "log_level", "0", text, sizeof(text));
	if (servers)
		rd_kafka_conf_set(conf, "bootstrap.servers", servers, text, sizeof(text));
	return rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
}

rd_kafka_mock_cluster_t *
cluster(void)
{
	if (mock == NULL)
	{
		host = new_producer(NULL);
		mock = rd_kafka_mock_cluster_new(host, BROKERS);
		producer = new_producer(rd_kafka_mock_cluster_bootstraps(mock));
	}
	return mock;
}

void
cluster_end(void)
{
	if (mock == NULL)
		return;
	rd_kafka_destroy(producer);
	rd_kafka_mock_cluster_destroy(mock);
	rd_kafka_destroy(host);
}

void
new_topic(const char *topic, int partitions)
{
	rd_kafka_mock_topic_create(cluster(), topic, partitions, 1);
}

void
produce_headers(const char *topic, int32 partition, const char *key, const char *value, size_t len,
				const char *header, const char *text)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(1);

	if (header)
		rd_kafka_header_add(headers, header, -1, text, text ? -1 : 0);
	if (rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
						  RD_KAFKA_V_KEY(key, key ? strlen(key) : 0),
						  RD_KAFKA_V_VALUE(unconstify(char *, value), len), RD_KAFKA_V_HEADERS(headers),
						  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY | RD_KAFKA_MSG_F_BLOCK), RD_KAFKA_V_END) != 0)
		check(false, "a record is produced", __LINE__);
	rd_kafka_poll(producer, 0);
}

void
produce(const char *topic, int32 partition, const char *key, const char *value)
{
	produce_headers(topic, partition, key, value, value ? strlen(value) : 0, NULL, NULL);
}

void
produced(void)
{
	rd_kafka_flush(producer, 10000);
}

Reader *
open_kafka(uint64 memory)
{
	const char *options[] = {"bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster()),
	"fetch.wait.max.ms", "20", NULL};

	return reader_open("kafka", memory, options);
}

#define GUEST(ref, name) "{\"ref\":\"" ref "\",\"name\":\"" name "\",\"total\":1.50,\"modified_at\":\"2026-01-01T00:00:00Z\"}"

void
test_kafka_records(void)
{
	Reader	   *reader;
	Event	   *event;

	new_topic("records", 1);
	produce_headers("records", 0, "a", GUEST("a", "Ann"), strlen(GUEST("a", "Ann")), "h", "x");
	produce("records", 0, "b", GUEST("b", "Bob"));
	produce("records", 0, "b", NULL);
	produced();
	reader = open_kafka(64 * MB);
	event = reader_next(reader, 3000);
	CHECK(event && event->type == GC_FRAME_HELLO && event->number == GC_PROTOCOL && strstr(event->text, "librdkafka"));
	say_subscribe(reader, 1, "records", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	say_credit(reader, 1, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->offset == 0 && event->epoch == 1 && strcmp(event->key, "a") == 0);
	CHECK(event && event->decodings[0].status == GC_DECODE_UPSERT && strcmp(event->decodings[0].columns[1], "Ann") == 0);
	CHECK(event && strcmp(event->decodings[0].columns[2], "1.50") == 0);
	CHECK(event && event->nheaders == 1 && strcmp(event->header_names[0], "h") == 0 && strcmp(event->header_values[0], "x") == 0);
	CHECK(event && event->time > INT64CONST(1600000000000000));
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 1);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 2 && event->value == NULL && event->decodings[0].status == GC_DECODE_TOMBSTONE &&
		  strcmp(event->decodings[0].columns[0], "b") == 0);
	event = reader_wait(reader, GC_FRAME_POSITION, 3000);
	CHECK(event && event->offset == 3 && event->at_end && event->end == 3);
	reader_close(reader);
}
