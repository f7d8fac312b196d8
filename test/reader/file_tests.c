/*
 * file_tests.c: the source 'file'.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/tmp/gc_reader.XXXXXX";

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

/* Leaves nothing behind. */
void
files_end(void)
{
	if (strstr(directory, ".XXXXXX") == NULL)
		nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void
append_to(const char *topic, int partition, const char *text)
{
	char		path[256];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", directory, topic);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/%s/%d.jsonl", directory, topic, partition);
	file = fopen(path, "a");
	fputs(text, file);
	fclose(file);
}

static Reader *
open_file(void)
{
	const char *options[] = {"directory", directory, NULL};
	Reader	   *reader;

	if (strstr(directory, ".XXXXXX") != NULL && mkdtemp(directory) == NULL)
		exit(2);
	reader = reader_open("file", 64 * MB, options);
	return reader;
}

#define LINE1 "{\"key\":\"a\",\"value\":{\"ref\":\"a\",\"name\":\"Ann\",\"modified_at\":\"2026-01-01T00:00:00Z\"},\"ts\":1767225600000,\"headers\":{\"h\":\"x\",\"n\":null}}\n"
#define LINE2 "{\"key\":\"b\",\"value\":null,\"ts\":1767225601000}\n"
#define LINE3 "not a record\n"

void
test_file_lines(void)
{
	Reader	   *reader = open_file();
	Event	   *event;

	append_to("guests", 0, LINE1 LINE2 "\n" LINE3 "{\"key\":\"c\"");
	event = reader_next(reader, 3000);
	CHECK(event && event->type == GC_FRAME_HELLO && event->number == GC_PROTOCOL);
	say_subscribe(reader, 1, "guests", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 7, 0);
	say_credit(reader, 1, 0, 7, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == 0 && event->epoch == 7 && event->partition == 0 && event->number == 1);
	CHECK(event && event->ndecodings == 1 && event->decodings[0].status == GC_DECODE_UPSERT &&
		  event->decodings[0].changelog == 100 && strcmp(event->decodings[0].columns[1], "Ann") == 0);
	CHECK(event && strcmp(event->key, "a") == 0 && event->time == INT64CONST(1767225600000000));
	CHECK(event && event->nheaders == 2 && strcmp(event->header_values[0], "x") == 0 && event->header_values[1] == NULL);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == strlen(LINE1) && event->value == NULL &&
		  event->decodings[0].status == GC_DECODE_TOMBSTONE);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == strlen(LINE1 LINE2) + 1 && event->decodings[0].status == GC_DECODE_BAD &&
		  strcmp(event->decodings[0].sqlstate, "22P02") == 0 && strcmp(event->value, "not a record") == 0);
	event = reader_wait(reader, GC_FRAME_POSITION, 3000);
	CHECK(event && event->at_end && event->offset == strlen(LINE1 LINE2 "\n" LINE3) && event->end == event->offset);
	append_to("guests", 0, ",\"value\":{\"ref\":\"c\",\"modified_at\":\"2026-01-01T00:00:00Z\"}}\n" "{\"key\":\"a\",\"payload\":\"{}\"}\n");
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == strlen(LINE1 LINE2 "\n" LINE3) && event->decodings[0].status == GC_DECODE_UPSERT);
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->decodings[0].status == GC_DECODE_BAD);	/* not a delete */
	reader_close(reader);
}

/* Several partitions at once, with more than fits anywhere; and questions about them. */
void
test_file_partitions(void)
{
	Reader	   *reader = open_file();
	Event	   *event;
	int64		next[3] = {0};
	int			count = 0;
	char		text[600];
	char		number[32];

	snprintf(text, sizeof(text), "{\"key\":\"k\",\"value\":{\"ref\":\"k\",\"name\":\"%0500d\",\"modified_at\":\"2026-01-01T00:00:00Z\"},\"ts\":1767225600000}\n", 1);
	for (int i = 0; i < 3000; i++)
		append_to("orders", i % 3, text);
	say_subscribe(reader, 1, "orders", 2, NULL, GC_ENVELOPE_PLAIN);
	for (int i = 0; i < 3; i++)
	{
		say_assign(reader, 1, i, 1, 0);
		say_credit(reader, 1, i, 1, 100 * MB);
	}
	while (count < 3000 && (event = reader_next(reader, 5000)) != NULL)
	{
		if (event->type != GC_FRAME_RECORD)
			continue;
		if (event->offset != next[event->partition] || event->ndecodings != 2)
			check(false, "records come in order", __LINE__);
		next[event->partition] += (int64) strlen(text);
		count++;
	}
	CHECK(count == 3000);
	event = ask(reader, GC_QUERY_TOPICS, NULL, -1, 0);
	CHECK(event->ok && event->rows == 3 && event->columns == 4);
	event = ask(reader, GC_QUERY_TOPICS, "nothing", -1, 0);
	CHECK(!event->ok && event->trouble == GC_TROUBLE_NO_TOPIC);
	event = ask(reader, GC_QUERY_CLUSTER, NULL, -1, 0);
	CHECK(event->ok && event->rows == 1);
	event = ask(reader, GC_QUERY_DELETES, "orders", -1, 0);
	CHECK(event->ok && event->rows == 0);
	snprintf(number, sizeof(number), "%d", (int) strlen(text) * 1000);
	event = ask(reader, GC_QUERY_OFFSET, "orders", 1, -1);
	CHECK(event->ok && strcmp(event->cells[0], number) == 0);
	event = ask(reader, GC_QUERY_OFFSET, "orders", 1, INT64CONST(1767225600000000));
	CHECK(event->ok && strcmp(event->cells[0], "0") == 0);
	event = ask(reader, GC_QUERY_OFFSET, "orders", 1, INT64CONST(1767225600000001));
	CHECK(event->ok && strcmp(event->cells[0], number) == 0);
	snprintf(number, sizeof(number), "%d", (int) strlen(text));
	event = ask(reader, GC_QUERY_RECORD, "orders", 1, 1);
	CHECK(event->ok && event->rows == 1 && strcmp(event->cells[0], number) == 0);
	event = ask(reader, GC_QUERY_RECORD, "orders", 1, (int64) strlen(text));
	CHECK(event->ok && event->rows == 1 && strcmp(event->cells[0], number) == 0);
	event = ask(reader, GC_QUERY_RECORD, "orders", 1, (int64) strlen(text) * 1000);
	CHECK(event->ok && event->rows == 0);
	event = ask(reader, GC_QUERY_PEEK, "orders", -1, 2);
	CHECK(event->ok && event->rows == 6 && event->columns == 5 && strcmp(event->cells[3], "k") == 0);
	reader_close(reader);
}

/* What may happen to files; and topics that are no names of directories. */
void
test_file_faults(void)
{
	Reader	   *reader = open_file();
	Event	   *event;
	char		path[256];

	append_to("faults", 0, LINE1 LINE2);
	say_subscribe(reader, 1, "faults", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 5);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_OUT_OF_RANGE && event->offset == 5);
	say_assign(reader, 1, 0, 2, 100000);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_OUT_OF_RANGE && event->high == strlen(LINE1 LINE2));
	say_assign(reader, 1, 1, 1, 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_NO_TOPIC && event->partition == 1);

	say_assign(reader, 1, 0, 3, 0);
	say_credit(reader, 1, 0, 3, MB);
	event = reader_wait(reader, GC_FRAME_POSITION, 3000);
	CHECK(event && event->at_end && event->offset == strlen(LINE1 LINE2));
	snprintf(path, sizeof(path), "%s/faults/0.jsonl", directory);
	CHECK(truncate(path, 3) == 0);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_OUT_OF_RANGE && event->epoch == 3 && event->low == 0);
	say_assign(reader, 1, 0, 4, 0);
	CHECK(reader_wait(reader, GC_FRAME_POSITION, 1000) != NULL);
	unlink(path);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_NO_TOPIC && event->epoch == 4);

	append_to("secret", 0, LINE1);
	say_subscribe(reader, 2, "faults/../secret", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 2, 0, 1, 0);
	say_credit(reader, 2, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 3000);
	CHECK(event && event->trouble == GC_TROUBLE_NO_TOPIC && event->number == 2);
	reader_close(reader);
}
