/*
 * kafka_fault_tests.c: what brokers and logs may do. The ids are those of the list of faults.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void
leader_is_first(const char *topic)
{
	new_topic(topic, 1);
	rd_kafka_mock_partition_set_leader(cluster(), topic, 0, 1);
}

static Reader *
read_from(const char *topic, int64 offset)
{
	Reader	   *reader = open_kafka(64 * MB);

	say_subscribe(reader, 1, topic, 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, offset);
	say_credit(reader, 1, 0, 1, 100 * MB);
	return reader;
}

/* B3, B4: before the beginning, behind the end. */
void
test_fault_out_of_range(void)
{
	Reader	   *reader;
	Event	   *event;
	char		text[1024 * 1024 + 1] = {0};

	new_topic("range", 1);
	produce("range", 0, "a", GUEST("a", "Ann"));
	produced();
	reader = read_from("range", 1000);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 5000);
	CHECK(event && event->trouble == GC_TROUBLE_OUT_OF_RANGE && event->offset == 1000 && event->low == 0 &&
		  event->high == 1 && event->epoch == 1 && event->number == 1 && event->partition == 0);

	/* not read on until it is assigned again */
	produce("range", 0, "a", GUEST("a", "Ann"));
	produced();
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 400) == NULL);
	say_assign(reader, 1, 0, 2, 1);
	say_credit(reader, 1, 0, 2, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == 1 && event->epoch == 2);

	/* the mock cluster keeps five megabytes */
	say_unassign(reader, 1, 0);
	memset(text, ' ', sizeof(text) - 1);
	for (int i = 0; i < 12; i++)
		produce_headers("range", 0, "a", text, 900000, NULL, NULL);
	produced();
	say_assign(reader, 1, 0, 3, 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 5000);
	CHECK(event && event->trouble == GC_TROUBLE_OUT_OF_RANGE && event->offset == 0 && event->low > 0 && event->high == 14);
	reader_close(reader);
}

/* B13: no such topic, not allowed. */
void
test_fault_no_topic(void)
{
	Reader	   *reader;
	Event	   *event;

	new_topic("gone", 1);
	rd_kafka_mock_topic_set_error(cluster(), "gone", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	reader = read_from("gone", 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 8000);
	CHECK(event && event->trouble == GC_TROUBLE_NO_TOPIC && event->offset == 0);
	rd_kafka_mock_topic_set_error(cluster(), "gone", RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
	say_assign(reader, 1, 0, 2, 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 8000);
	CHECK(event && event->trouble == GC_TROUBLE_DENIED && event->epoch == 2);

	/* a partition that the topic does not have */
	rd_kafka_mock_topic_set_error(cluster(), "gone", RD_KAFKA_RESP_ERR_NO_ERROR);
	say_assign(reader, 1, 7, 1, 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 8000);
	CHECK(event && event->trouble == GC_TROUBLE_NO_TOPIC && event->partition == 7);

	/* and when it is there */
	produce("gone", 0, "a", GUEST("a", "Ann"));
	produced();
	say_assign(reader, 1, 0, 3, 0);
	say_credit(reader, 1, 0, 3, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->offset == 0);
	reader_close(reader);
}

/* B1: down and up again. */
void
test_fault_broker_down(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		begun;
	bool		up = false;
	bool		read = false;

	new_topic("down", 1);
	produce("down", 0, "a", GUEST("a", "Ann"));
	produced();
	reader = read_from("down", 0);
	event = reader_wait(reader, GC_FRAME_SERVER, 5000);
	CHECK(event && event->state == GC_SERVER_UP);
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 3000) != NULL || npassed > 0);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_down(cluster(), i);
	event = reader_wait(reader, GC_FRAME_SERVER, 8000);
	CHECK(event && event->state == GC_SERVER_DOWN && event->text[0]);
	CHECK(reader_wait(reader, GC_FRAME_SERVER, 1500) == NULL);
	for (int i = 1; i <= BROKERS; i++)
		rd_kafka_mock_broker_set_up(cluster(), i);
	begun = now_ms();
	produce("down", 0, "b", GUEST("b", "Bob"));
	produced();
	while (!(up && read) && (event = reader_next(reader, 5000)) != NULL)
	{
		up |= event->type == GC_FRAME_SERVER && event->state == GC_SERVER_UP;
		read |= event->type == GC_FRAME_RECORD && event->offset == 1;
	}
	CHECK(up && read);
	CHECK(now_ms() - begun < 5000);
	reader_close(reader);
}

/* A leader that moves is no trouble. */
void
test_fault_leader_moves(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		next = 0;

	leader_is_first("moves");
	for (int i = 0; i < 100; i++)
		produce("moves", 0, "a", GUEST("a", "Ann"));
	produced();
	reader = read_from("moves", 0);
	while (next < 100 && (event = reader_wait(reader, GC_FRAME_RECORD, 3000)) != NULL)
		CHECK(event->offset == next++);
	rd_kafka_mock_partition_set_leader(cluster(), "moves", 0, 2);
	for (int i = 0; i < 100; i++)
		produce("moves", 0, "a", GUEST("a", "Ann"));
	produced();
	while (next < 200 && (event = reader_next(reader, 5000)) != NULL)
	{
		if (event->type == GC_FRAME_TROUBLE)
			CHECK(event->trouble == GC_TROUBLE_TRANSIENT);
		if (event->type == GC_FRAME_RECORD)
			CHECK(event->offset == next++);
	}
	CHECK(next == 200);
	reader_close(reader);
}

/* B7, B10: gaps, in the middle and at the end; the position is behind them. */
void
test_fault_gaps(void)
{
	Reader	   *reader;
	Event	   *event;
	RawBatch	raw = {.count = 3, .deltas = {0, 3, 9}, .last_delta = 9, .value = GUEST("a", "Ann")};
	static const int64 expected[] = {0, 3, 9};

	leader_is_first("gaps");
	produce_batch("gaps", &raw);

	/* the mock cluster counts records: what makes up for the gaps is never read */
	for (int i = 0; i < 7; i++)
		produce("gaps", 0, "b", GUEST("b", "Bob"));
	produced();
	reader = read_from("gaps", 0);
	for (int i = 0; i < lengthof(expected); i++)
	{
		event = reader_wait(reader, GC_FRAME_RECORD, 5000);
		CHECK(event && event->offset == expected[i]);
	}
	event = reader_wait(reader, GC_FRAME_POSITION, 3000);
	CHECK(event && event->at_end && event->offset == 10 && event->end == 10);

	/* a marker of a transaction at the end: no record, but the position counts it */
	raw = (RawBatch) {.count = 1, .deltas = {0}, .last_delta = 0, .control = true};
	produce_batch("gaps", &raw);
	event = reader_wait(reader, GC_FRAME_POSITION, 3000);
	CHECK(event && event->at_end && event->offset == 11 && event->end == 11);
	reader_close(reader);
}

/* B17, B18: a batch that cannot be read, after one that can. */
void
test_fault_unreadable(void)
{
	Reader	   *reader;
	Event	   *event;
	RawBatch	raw = {.count = 2, .deltas = {0, 1}, .last_delta = 1, .value = GUEST("a", "Ann"), .bad_crc = true};

	leader_is_first("crc");
	produce("crc", 0, "a", GUEST("a", "Ann"));
	produced();
	produce_batch("crc", &raw);
	produce("crc", 0, "b", GUEST("b", "Bob"));
	produced();
	reader = read_from("crc", 0);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->offset == 0);
	event = reader_next(reader, 3000);
	while (event && event->type != GC_FRAME_TROUBLE && event->type != GC_FRAME_RECORD)
		event = reader_next(reader, 3000);
	CHECK(event && event->type == GC_FRAME_TROUBLE && event->trouble == GC_TROUBLE_UNREADABLE && event->offset == 1 &&
		  event->text[0]);
	CHECK(reader_wait(reader, GC_FRAME_RECORD, 500) == NULL);
	event = ask(reader, GC_QUERY_RECORD, "crc", 0, 1);
	CHECK(!event->ok && event->trouble == GC_TROUBLE_UNREADABLE);
	event = ask(reader, GC_QUERY_RECORD, "crc", 0, 3);
	CHECK(event->ok && event->rows == 1 && strcmp(event->cells[0], "3") == 0);
	say_assign(reader, 1, 0, 2, 3);
	say_credit(reader, 1, 0, 2, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == 3 && event->epoch == 2);
	reader_close(reader);
}

/* B18: a record that is not one, in a batch whose checksum is right. */
void
test_fault_malformed(void)
{
	Reader	   *reader;
	Event	   *event;
	RawBatch	raw = {.count = 2, .deltas = {0, 1}, .last_delta = 1, .value = GUEST("a", "Ann"), .garbage = true};

	leader_is_first("malformed");
	produce("malformed", 0, "a", GUEST("a", "Ann"));
	produced();
	produce_batch("malformed", &raw);
	reader = read_from("malformed", 0);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->offset == 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 15000);
	CHECK(event && event->trouble == GC_TROUBLE_UNREADABLE && event->offset == 1);
	reader_close(reader);
}

/* B21: above receive.message.max.bytes. */
void
test_fault_too_large(void)
{
	const char *options[] = {"bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster()),
		"receive.message.max.bytes", "200000", "fetch.wait.max.ms", "20", NULL};
	Reader	   *reader;
	Event	   *event;
	char		text[300001];

	new_topic("large", 2);
	memset(text, ' ', sizeof(text));
	produce("large", 0, "a", GUEST("a", "Ann"));
	produced();
	produce_headers("large", 0, "a", text, 300000, NULL, NULL);
	produce("large", 1, "a", GUEST("a", "Ann"));
	produced();
	reader = reader_open("kafka", 64 * MB, options);
	say_subscribe(reader, 1, "large", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 1);
	say_credit(reader, 1, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 8000);
	CHECK(event && event->trouble == GC_TROUBLE_TOO_LARGE && event->offset == 1 && event->partition == 0 &&
		  strstr(event->text, "receive.message.max.bytes"));
	say_assign(reader, 1, 1, 1, 0);
	say_credit(reader, 1, 1, 1, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->partition == 1 && event->offset == 0);
	reader_close(reader);
}

/* A2, B20: what unpacks to hundreds of megabytes ends the reader, and nothing else. */
void
test_fault_bomb(void)
{
	Reader	   *reader;
	RawBatch	raw = {.count = 1, .deltas = {0}, .last_delta = 0, .zeroes = 400 * MB};
	int			status = 0;

	leader_is_first("bomb");
	produce_batch("bomb", &raw);
	reader = read_from("bomb", 0);
	while (reader_next(reader, 15000) != NULL)
		;
	CHECK(reader->closed && reader_exited(reader, 3000, &status));
	CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
}
