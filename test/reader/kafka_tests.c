/*
 * kafka_tests.c: the source 'kafka', against the library's mock cluster in this process.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <unistd.h>

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

/* A topic of records of a kilobyte each, one partition after the other. */
static void
new_topic_of(const char *topic, int partitions, int records)
{
	char		text[1200];

	new_topic(topic, partitions);
	snprintf(text, sizeof(text), "{\"ref\":\"a\",\"name\":\"%01000d\",\"modified_at\":\"2026-01-01T00:00:00Z\"}", 7);
	for (int i = 0; i < records; i++)
		produce(topic, i % partitions, "a", text);
	produced();
}

/* What a group has committed. */
int64
committed(const char *group, const char *topic, int32 partition)
{
	char		text[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_t *consumer;
	int64		offset;

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster()), text, sizeof(text));
	rd_kafka_conf_set(conf, "group.id", group, text, sizeof(text));
	rd_kafka_conf_set(conf, "log_level", "0", text, sizeof(text));
	consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	rd_kafka_topic_partition_list_add(list, topic, partition);
	rd_kafka_committed(consumer, list, 5000);
	offset = list->elems[0].offset;
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_destroy(consumer);
	return offset;
}

Reader *
open_kafka(uint64 memory)
{
	const char *options[] = {"bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster()),
	"fetch.wait.max.ms", "20", NULL};

	return reader_open("kafka", memory, options);
}

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

/* Takes records as long as they come in order; returns how many. */
static int
take_run(Reader *reader, int64 *next, int timeout_ms, size_t *bytes)
{
	int			count = 0;
	Event	   *event;

	while ((event = reader_next(reader, timeout_ms)) != NULL)
	{
		if (event->type != GC_FRAME_RECORD)
			continue;
		if (event->offset != *next)
			check(false, "records come in order, none twice, none missing", __LINE__);
		*next = event->offset + 1;
		*bytes += event->bytes;
		count++;
	}
	return count;
}

/* Sends no more than credit; goes on where it was. */
void
test_kafka_credit(void)
{
	Reader	   *reader;
	int64		next = 0;
	size_t		bytes = 0;
	int			count;

	new_topic_of("credit", 1, 3000);
	reader = open_kafka(64 * MB);
	say_subscribe(reader, 1, "credit", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 400) == NULL);
	say_credit(reader, 1, 0, 1, 100000);
	count = take_run(reader, &next, 700, &bytes);
	CHECK(count > 30 && bytes >= 100000 && bytes < 100000 + 3000);

	/* credit of another epoch is not ours */
	say_credit(reader, 1, 0, 2, 100000);
	CHECK(take_run(reader, &next, 300, &bytes) == 0);
	say_credit(reader, 1, 0, 1, 100000);
	take_run(reader, &next, 700, &bytes);
	CHECK(bytes >= 200000 && bytes < 200000 + 3000);
	say_credit(reader, 1, 0, 1, 100 * MB);
	take_run(reader, &next, 1500, &bytes);
	CHECK(next == 3000);
	reader_close(reader);
}

/* Reads a topic whose records are more than its queue holds, which it has filled before; returns the longest silence. */
static int64
silence(void)
{
	Reader	   *reader = open_kafka(8 * MB);
	int64		longest = 0;
	int64		heard;
	int			count = 0;

	say_subscribe(reader, 1, "rests", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 150) == NULL);
	say_credit(reader, 1, 0, 1, 100 * MB);
	heard = now_ms();
	while (count < 4000 && reader_wait(reader, GC_FRAME_RECORD, 5000) != NULL)
	{
		longest = Max(longest, now_ms() - heard);
		heard = now_ms();
		count++;
	}
	CHECK(count == 4000);
	reader_close(reader);
	return longest;
}

/*
 * Where there is more nothing rests: not the loop, when its out buffer was full, and not the library, which does so for a
 * second when it was. On a busy machine something else may.
 */
void
test_kafka_rests(void)
{
	int64		shortest = PG_INT64_MAX;

	new_topic_of("rests", 1, 4000);
	for (int i = 0; i < 3 && shortest >= 200; i++)
		shortest = Min(shortest, silence());
	CHECK(shortest < 200);
}

/* One partition without credit does not stop the other, though it is paused in the end. */
void
test_kafka_neighbours(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		next[2] = {0, 0};
	int64		until;

	new_topic_of("neighbours", 2, 4000);
	reader = open_kafka(8 * MB);
	say_subscribe(reader, 1, "neighbours", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	say_assign(reader, 1, 1, 1, 0);
	say_credit(reader, 1, 1, 1, 100 * MB);
	until = now_ms() + 8000;
	while (now_ms() < until && next[0] + next[1] < 4000)
	{
		event = reader_wait(reader, GC_FRAME_RECORD, 500);
		if (event == NULL)
		{
			if (next[1] == 2000)
				say_credit(reader, 1, 0, 1, 100 * MB);
			continue;
		}
		if (event->offset != next[event->partition])
		{
			check(false, "records come in order", __LINE__);
			break;
		}
		if (event->partition == 0)
			CHECK(next[1] == 2000);
		next[event->partition]++;
	}
	CHECK(next[0] == 2000 && next[1] == 2000);
	reader_close(reader);
}

/* After an assignment there is nothing of the one before. */
void
test_kafka_epochs(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		next;

	new_topic("epochs", 1);
	for (int i = 0; i < 2000; i++)
		produce("epochs", 0, "a", GUEST("a", "Ann"));
	produced();
	reader = open_kafka(64 * MB);
	say_subscribe(reader, 1, "epochs", 1, NULL, GC_ENVELOPE_PLAIN);
	for (uint32 epoch = 1; epoch <= 20; epoch++)
	{
		int64		from = epoch * 37 % 200;

		say_assign(reader, 1, 0, epoch, from);
		say_credit(reader, 1, 0, epoch, 200000);
		next = from;
		for (int i = 0; i < 50;)
		{
			event = reader_wait(reader, GC_FRAME_RECORD, 3000);
			if (event == NULL)
			{
				check(false, "records come after an assignment", __LINE__);
				break;
			}
			if (event->epoch != epoch)
				continue;
			if (event->offset != next)
			{
				check(false, "an assignment begins where it was told to", __LINE__);
				break;
			}
			next++;
			i++;
		}
	}
	CHECK(next > 50);
	say_unassign(reader, 1, 0);
	while ((event = reader_next(reader, 500)) != NULL)
		;
	produce("epochs", 0, "a", GUEST("a", "Ann"));
	produced();
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 500) == NULL);
	reader_close(reader);
}

/* Several changelogs, filters, tombstones that go to all, records that are nobody's. */
void
test_kafka_fan_out(void)
{
	static const char *const filters[] = {"{\"$.type\":\"guest\"}", "{\"$.type\":\"order\"}", "{\"$headers.kind\":\"x\"}"};
	Reader	   *reader;
	Event	   *event;

	new_topic("fan_out", 1);
	produce("fan_out", 0, "a", "{\"type\":\"guest\",\"ref\":\"a\",\"modified_at\":\"2026-01-01T00:00:00Z\"}");
	produce("fan_out", 0, "b", "{\"type\":\"nobody\",\"ref\":\"b\",\"modified_at\":\"2026-01-01T00:00:00Z\"}");
	produce("fan_out", 0, "a", NULL);
	produce_headers("fan_out", 0, "c", "{\"type\":\"order\",\"ref\":\"c\",\"modified_at\":\"2026-01-01T00:00:00Z\"}", 63, "kind", "x");
	produce("fan_out", 0, "d", "{\"type\":\"nobody\",\"ref\":\"d\",\"modified_at\":\"2026-01-01T00:00:00Z\"}");
	produced();
	reader = open_kafka(64 * MB);
	say_subscribe(reader, 5, "fan_out", 3, filters, GC_ENVELOPE_PLAIN);
	say_assign(reader, 5, 0, 1, 0);
	say_credit(reader, 5, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->offset == 0 && event->ndecodings == 1 && event->decodings[0].changelog == 100);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 2 && event->ndecodings == 2 && event->decodings[0].status == GC_DECODE_TOMBSTONE &&
		  event->decodings[1].changelog == 101);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 3 && event->ndecodings == 2 && event->decodings[0].changelog == 101 &&
		  event->decodings[1].changelog == 102);
	event = reader_wait(reader, GC_FRAME_POSITION, 1000);
	CHECK(event && event->offset == 5 && event->at_end);

	/* other changelogs from now on */
	say_subscribe(reader, 5, "fan_out", 1, NULL, GC_ENVELOPE_PLAIN);
	produce("fan_out", 0, "e", "{\"type\":\"nobody\",\"ref\":\"e\",\"modified_at\":\"2026-01-01T00:00:00Z\"}");
	produced();
	event = reader_wait(reader, GC_FRAME_RECORD, 2000);
	CHECK(event && event->offset == 5 && event->ndecodings == 1 && event->decodings[0].changelog == 100);
	say_subscribe(reader, 5, "fan_out", 0, NULL, GC_ENVELOPE_PLAIN);
	produce("fan_out", 0, "f", GUEST("f", "Fay"));
	produced();
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 500) == NULL);
	reader_close(reader);
}

/* Payloads that are bad, of another form, or too large: whole, with the reason. */
void
test_kafka_payloads(void)
{
	Reader	   *reader;
	Event	   *event;
	char	   *large = pg_malloc0(1024 * 1024 + 10);

	new_topic("payloads", 2);
	produce("payloads", 0, "a", "{\"ref\":");
	produce_headers("payloads", 0, "b", "\xff\x00\xfe", 3, NULL, NULL);
	produce("payloads", 0, NULL, NULL);
	memset(large, ' ', 1024 * 1024 + 2);
	produce_headers("payloads", 0, "c", large, 900 * 1024, NULL, NULL);
	produce("payloads", 1, "d", "{\"op\":\"c\",\"before\":null,\"after\":{\"ref\":\"d\",\"name\":\"Dan\",\"modified_at\":1767225600000},\"source\":{\"ts_ms\":1767225600000}}");
	produce("payloads", 1, "d", "{\"op\":\"d\",\"before\":{\"ref\":\"d\",\"name\":\"Dan\",\"modified_at\":1767225600000},\"after\":null,\"source\":{\"ts_ms\":1767225700000}}");
	produce("payloads", 1, "d", NULL);
	produce("payloads", 1, "d", "{\"op\":\"t\",\"before\":null,\"after\":null,\"source\":{\"ts_ms\":1767225700000}}");
	produced();
	reader = open_kafka(64 * MB);
	say_subscribe(reader, 1, "payloads", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	say_credit(reader, 1, 0, 1, 8 * MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->decodings[0].status == GC_DECODE_BAD && strcmp(event->decodings[0].sqlstate, "22P02") == 0 &&
		  strcmp(event->value, "{\"ref\":") == 0);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->decodings[0].status == GC_DECODE_BAD && strcmp(event->decodings[0].sqlstate, "22021") == 0 &&
		  event->value_len == 3);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->decodings[0].status == GC_DECODE_BAD && strcmp(event->decodings[0].sqlstate, "23502") == 0 &&
		  event->key == NULL && event->value == NULL);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->decodings[0].status == GC_DECODE_BAD && event->value_len == 900 * 1024);

	say_subscribe(reader, 1, "payloads", 1, NULL, GC_ENVELOPE_DEBEZIUM);
	say_assign(reader, 1, 1, 1, 0);
	say_credit(reader, 1, 1, 1, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->partition == 1 && event->decodings[0].status == GC_DECODE_UPSERT);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 1 && event->decodings[0].status == GC_DECODE_TOMBSTONE);
	event = reader_wait(reader, GC_FRAME_RECORD, 1000);
	CHECK(event && event->offset == 3 && event->decodings[0].status == GC_DECODE_HALT);
	free(large);
	reader_close(reader);
}

/* Questions. The mock cluster does not find offsets by time. */
void
test_kafka_questions(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		begun;

	new_topic("questions", 2);
	for (int i = 0; i < 10; i++)
		produce("questions", 0, "a", GUEST("a", "Ann"));
	produce("questions", 1, NULL, NULL);
	produced();
	reader = open_kafka(64 * MB);
	event = ask(reader, GC_QUERY_TOPICS, "questions", -1, 0);
	CHECK(event->ok && event->rows == 2 && event->columns == 4 && strcmp(event->cells[0], "questions") == 0);
	CHECK(event->cells && strcmp(event->cells[1], "0") == 0 && event->cells[3] && strcmp(event->cells[2], "0") == 0 &&
		  strcmp(event->cells[3], "10") == 0 && strcmp(event->cells[7], "1") == 0);
	event = ask(reader, GC_QUERY_TOPICS, NULL, -1, 0);
	CHECK(event->ok && event->rows >= 2);
	event = ask(reader, GC_QUERY_CLUSTER, NULL, -1, 0);
	CHECK(event->ok && event->rows == 2 && event->columns == 3 && strncmp(event->cells[0], "mock", 4) == 0 &&
		  strncmp(event->cells[1], "127.0.0.1:", 10) == 0);
	event = ask(reader, GC_QUERY_OFFSET, "questions", 0, -1);
	CHECK(event->ok && event->rows == 1 && strcmp(event->cells[0], "10") == 0);
	event = ask(reader, GC_QUERY_OFFSET, "questions", 0, -2);
	CHECK(event->ok && strcmp(event->cells[0], "0") == 0);
	event = ask(reader, GC_QUERY_OFFSET, "questions", 0, INT64CONST(4102444800000000));
	CHECK(event->ok && strcmp(event->cells[0], "10") == 0);
	event = ask(reader, GC_QUERY_RECORD, "questions", 0, 4);
	CHECK(event->ok && event->rows == 1 && event->columns == 3 && strcmp(event->cells[0], "4") == 0 &&
		  strstr(event->cells[1], "+00") && strlen(event->cells[2]) > 5);
	event = ask(reader, GC_QUERY_RECORD, "questions", 1, 0);
	CHECK(event->ok && event->rows == 1 && strcmp(event->cells[2], "0") == 0);
	event = ask(reader, GC_QUERY_RECORD, "questions", 0, 10);
	CHECK(event->ok && event->rows == 0);
	event = ask(reader, GC_QUERY_PEEK, "questions", 0, 3);
	CHECK(event->ok && event->rows == 3 && event->columns == 5 && strcmp(event->cells[1], "7") == 0 &&
		  strcmp(event->cells[4], GUEST("a", "Ann")) == 0);
	event = ask(reader, GC_QUERY_PEEK, "questions", -1, 3);
	CHECK(event->ok && event->rows == 4 && event->cells[3 * 5] && strcmp(event->cells[3 * 5], "1") == 0 &&
		  event->cells[3 * 5 + 4] == NULL);
	rd_kafka_mock_topic_set_error(cluster(), "questions", RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
	event = ask(reader, GC_QUERY_TOPICS, "questions", -1, 0);
	CHECK(!event->ok && event->trouble == GC_TROUBLE_DENIED);
	rd_kafka_mock_topic_set_error(cluster(), "questions", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	event = ask(reader, GC_QUERY_PEEK, "questions", -1, 1);
	CHECK(!event->ok && event->trouble == GC_TROUBLE_NO_TOPIC);
	rd_kafka_mock_topic_set_error(cluster(), "questions", RD_KAFKA_RESP_ERR_NO_ERROR);

	/* within its time, though nobody answers */
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_rtt(cluster(), i, 3000);
	begun = now_ms();
	say_query(reader, 999, GC_QUERY_TOPICS, 500, NULL, -1, 0);
	event = reader_wait(reader, GC_FRAME_ANSWER, 3000);
	CHECK(event && event->number == 999 && !event->ok && event->trouble == GC_TROUBLE_TRANSIENT && event->text);
	CHECK(now_ms() - begun < 1500);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_rtt(cluster(), i, 0);
	reader_close(reader);
}
