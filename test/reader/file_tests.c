/*
 * file_tests.c: the source 'file'.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/tmp/gc_reader.XXXXXX";

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

	if (directory[strlen(directory) - 1] == 'X' && mkdtemp(directory) == NULL)
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
	append_to("guests", 0, ",\"value\":{\"ref\":\"c\",\"modified_at\":\"2026-01-01T00:00:00Z\"}}\n");
	event = reader_wait(reader, GC_FRAME_RECORD, 3000);
	CHECK(event && event->offset == strlen(LINE1 LINE2 "\n" LINE3) && event->decodings[0].status == GC_DECODE_UPSERT);
	reader_close(reader);
}
