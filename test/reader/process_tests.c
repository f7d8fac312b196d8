/*
 * process_tests.c: the program itself: what it refuses, what it survives, how it ends.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* It says FAILED, with a text that has the word, and ends with status 1. */
static void
expect_failure(Reader *reader, const char *word, const char *never)
{
	Event	   *event = reader_wait(reader, GC_FRAME_SERVER, 3000);
	int			status = 0;

	while (event && event->state == GC_SERVER_UP)
		event = reader_wait(reader, GC_FRAME_SERVER, 3000);
	CHECK(event && event->state == GC_SERVER_FAILED && strstr(event->text, word));
	if (event && never)
		CHECK(strstr(event->text, never) == NULL);
	CHECK(reader_exited(reader, 2000, &status) && WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

/* X5, X6, X7, X9, X10: options, once more; no value in a message. */
void
test_process_options(void)
{
	static const char *const refused[][2] = {
		{"plugin.library.paths", "/tmp/s3cret.so"}, {"sasl.kerberos.kinit.cmd", "s3cret"}, {"debug", "s3cret"},
		{"test.mock.num.brokers", "3"}, {"metadata.broker.list", "s3cret"}, {"statistics.interval.ms", "7"},
		{"directory", "/s3cret"}, {"bootstrap.servers ", "s3cret"},
		{"security.protocol", "s3cret"}, {"isolation.level", "s3cret"}, {"fetch.wait.max.ms", "s3cret"},
		{"password_file", "/s3cret/none"},
	};

	for (int i = 0; i < lengthof(refused); i++)
	{
		const char *options[] = {"bootstrap.servers", "127.0.0.1:1", refused[i][0], refused[i][1], NULL};

		expect_failure(reader_open("kafka", 64 * MB, options), "option", "s3cret");
	}
	for (int i = 0; i < 3; i++)
	{
		const char *options[] = {i == 0 ? NULL : i == 1 ? "bootstrap.servers" : "directory", "nowhere", NULL};

		expect_failure(reader_open("file", 64 * MB, options), "option", "nowhere");
	}
	expect_failure(reader_open("kafka", 64 * MB, (const char *[]) {NULL}), "bootstrap.servers", NULL);
	expect_failure(reader_open("kinesis", 64 * MB, (const char *[]) {NULL}), "kind", NULL);
}

/* Whatever comes over the socket. */
void
test_process_garbage(void)
{
	static const struct
	{
		const char *bytes;
		size_t		len;
	}			garbage[] = {
		{"\0\0\0\0", 4}, {"\xff\xff\xff\xff\xff", 5}, {"GET / HTTP/1.1\r\n\r\n", 18},
		{"\x01\0\0\0X", 5}, {"\x01\0\0\0Q", 5}, {"\x05\0\0\0C\xfe\xff\xff\xff", 9},
	};
	int			status;

	for (int i = 0; i < lengthof(garbage); i++)
	{
		Reader	   *reader = reader_start();

		CHECK(send(reader->socket, garbage[i].bytes, garbage[i].len, MSG_NOSIGNAL) == (ssize_t) garbage[i].len);
		expect_failure(reader, "protocol violation", NULL);
	}
	for (int i = 0; i < 5; i++)
	{
		Reader	   *reader = reader_open("file", 64 * MB, (const char *[]) {"directory", "/tmp", NULL});

		CHECK(reader_wait(reader, GC_FRAME_HELLO, 3000) != NULL);
		switch (i)
		{
			case 0:
				say_assign(reader, 1, 0, 1, 0);
				break;
			case 1:
				say_subscribe(reader, 1, "a", 1, NULL, GC_ENVELOPE_PLAIN);
				say_assign(reader, 1, -1, 1, 0);
				break;
			case 2:
				say_subscribe(reader, 1, "a", 1, NULL, GC_ENVELOPE_PLAIN);
				say_assign(reader, 1, 0, 1, -1);
				break;
			case 3:
				say_subscribe(reader, 1, "a", 1, NULL, GC_ENVELOPE_PLAIN);
				say_subscribe(reader, 1, "b", 1, NULL, GC_ENVELOPE_PLAIN);
				break;
			default:
				say_subscribe(reader, 1, "a", 1, NULL, (GcEnvelope) 9);
		}
		expect_failure(reader, "protocol violation", NULL);
	}

	/* half a frame, and the end */
	{
		Reader	   *reader = reader_start();

		CHECK(send(reader->socket, "\x05\0\0", 3, MSG_NOSIGNAL) == 3);
		shutdown(reader->socket, SHUT_WR);
		CHECK(reader_exited(reader, 1000, &status) && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
}

/* A3: when who started it is killed, it is gone at once, also when a copy of the socket lives on. */
void
test_process_parent(void)
{
	int			pair[2];
	int			keep[2];
	pid_t		parent;
	pid_t		reader = 0;
	int64		begun;
	bool		gone = false;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	CHECK(pipe(pair) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, keep) == 0);
	parent = fork();
	if (parent == 0)
	{
		const char *options[] = {"directory", "/tmp", NULL};
		Reader	   *started = reader_open("file", 64 * MB, options);

		if (reader_wait(started, GC_FRAME_HELLO, 3000) == NULL)
			_exit(1);
		if (fork() == 0)
		{
			/* holds the socket's other end */
			close(pair[1]);
			sleep(3);
			_exit(0);
		}
		if (write(pair[1], &started->pid, sizeof(pid_t)) < 0)
			_exit(1);
		pause();
	}
	close(pair[1]);
	CHECK(read(pair[0], &reader, sizeof(reader)) == sizeof(reader) && kill(reader, 0) == 0);
	kill(parent, SIGKILL);
	begun = now_ms();
	while (!gone && now_ms() - begun < 1000)
	{
		gone = waitpid(reader, NULL, WNOHANG) == reader;
		usleep(5000);
	}
	CHECK(gone);
	waitpid(parent, NULL, 0);
}

/* Reads a line of a file in /proc. */
static bool
proc_says(pid_t pid, const char *file, const char *words)
{
	char		path[64];
	char		line[256];
	bool		found = false;
	FILE	   *from;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int) pid, file);
	from = fopen(path, "r");
	while (from && fgets(line, sizeof(line), from))
		if (strncmp(line, words, strlen(words)) == 0)
			found = true;
	if (from)
		fclose(from);
	return found;
}

/* Limits: no core, no more memory than it was given, nothing inherited, few threads' worth of addresses. */
void
test_process_limits(void)
{
	Reader	   *reader;
	struct rlimit limit = {0};
	char		path[64];
	char		target[256] = {0};
	int			extra = open("/etc/passwd", O_RDONLY);

	reader = open_kafka(64 * MB);
	CHECK(reader_wait(reader, GC_FRAME_SERVER, 5000) != NULL);
	CHECK(prlimit(reader->pid, RLIMIT_CORE, NULL, &limit) == 0 && limit.rlim_max == 0);
	if (!reader_sanitized)
		CHECK(prlimit(reader->pid, RLIMIT_AS, NULL, &limit) == 0 && limit.rlim_max < 512 * MB);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int) reader->pid, extra);
	CHECK(extra > 2);
	CHECK(readlink(path, target, sizeof(target) - 1) < 0 || strcmp(target, "/etc/passwd") != 0);
	CHECK(proc_says(reader->pid, "status", "SigBlk:\t0000000000000000"));
	reader_close(reader);
	close(extra);
}

/* The server does not read for a while: memory stays where it is, nothing is lost. */
void
test_process_slow_server(void)
{
	Reader	   *reader;
	Event	   *event;
	int64		next = 0;
	char		text[2000];
	char		path[64];
	long		pages = 0;
	FILE	   *statm;

	new_topic("slow", 1);
	snprintf(text, sizeof(text), "{\"ref\":\"a\",\"name\":\"%01500d\",\"modified_at\":\"2026-01-01T00:00:00Z\"}", 7);
	for (int i = 0; i < 2500; i++)
		produce("slow", 0, "a", text);
	produced();
	reader = open_kafka(8 * MB);
	say_subscribe(reader, 1, "slow", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 0);
	say_credit(reader, 1, 0, 1, 1000 * MB);
	usleep(1500 * 1000);
	snprintf(path, sizeof(path), "/proc/%d/statm", (int) reader->pid);
	statm = fopen(path, "r");
	CHECK(statm && fscanf(statm, "%*d %ld", &pages) == 1 && pages * 4096 < (reader_sanitized ? 200 : 40) * MB);
	fclose(statm);
	while (next < 2500 && (event = reader_wait(reader, GC_FRAME_RECORD, 5000)) != NULL)
		if (event->offset != next++)
			check(false, "records come in order", __LINE__);
	CHECK(next == 2500);
	reader_close(reader);
}

/* Two subscriptions to one topic: the second one's turn is when the first has done. Offsets are committed. */
void
test_process_subscriptions(void)
{
	Reader	   *reader;
	Event	   *event;

	new_topic("twice", 1);
	for (int i = 0; i < 5; i++)
		produce("twice", 0, "a", GUEST("a", "Ann"));
	produced();
	reader = open_kafka(64 * MB);
	say_subscribe(reader, 1, "twice", 1, NULL, GC_ENVELOPE_PLAIN);
	say_subscribe(reader, 2, "twice", 1, NULL, GC_ENVELOPE_PLAIN);
	say_assign(reader, 1, 0, 1, 3);
	say_credit(reader, 1, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->number == 1 && event->offset == 3);
	say_assign(reader, 2, 0, 1, 0);
	say_credit(reader, 2, 0, 1, MB);
	event = reader_wait(reader, GC_FRAME_TROUBLE, 1000);
	CHECK(event && event->number == 2 && event->trouble == GC_TROUBLE_TRANSIENT);
	say_commit(reader, 1, 0, 4);
	event = reader_wait(reader, GC_FRAME_RECORD, 800);
	CHECK(event == NULL);
	say_unassign(reader, 1, 0);
	event = reader_wait(reader, GC_FRAME_RECORD, 5000);
	CHECK(event && event->number == 2 && event->offset == 0);
	say_commit(reader, 2, 0, 5);
	reader_close(reader);
	CHECK(committed("guest_context", "twice", 0) == 5);
}

/*
 * Frames that make sense at their beginning and then do not. The reader ends as it must, or lives; it never crashes.
 */
void
test_process_fuzz(void)
{
	int			seconds = getenv("GC_READER_FUZZ") ? atoi(getenv("GC_READER_FUZZ")) : 3;
	unsigned int seed = getenv("GC_READER_SEED") ? (unsigned int) atoi(getenv("GC_READER_SEED")) : 1;
	int64		until = now_ms() + seconds * 1000;
	int			rounds = 0;

	srandom(seed);
	while (now_ms() < until)
	{
		Reader	   *reader = reader_open("file", 64 * MB, (const char *[]) {"directory", "/tmp", NULL});
		int			status = 0;
		int			what = (int) (random() % 6);

		say_subscribe(reader, 1, "none", (int) (random() % 3), NULL, (GcEnvelope) (random() % 2));
		if (what == 0)
			say_query(reader, 1, (GcQuery) (random() % 8), (uint32) random() % 100, random() % 2 ? "none" : NULL, (int32) (random() % 3 - 1), random() % 100 - 50);
		for (int i = (int) (random() % 20); i > 0; i--)
		{
			static const char types[] = "CSAUWOQXHRPTVNL";
			int			len = (int) (random() % 64);

			gc_frame_begin(&reader->out, (GcFrameType) types[random() % 8]);
			for (int j = 0; j < len; j++)
				gc_frame_put_u8(&reader->out, (uint8) (random() % 4 ? random() % 3 : random()));
			gc_frame_finish(&reader->out);
			if (what == 1)
				reader->out.data[random() % (int) reader->out.len] ^= (char) (1 << random() % 8);
		}
		reader_flush(reader);
		shutdown(reader->socket, SHUT_WR);
		while (reader_next(reader, 2000) != NULL)
			;
		if (!reader_exited(reader, 2000, &status) || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
		{
			printf("round %d, seed %u, status %d\n", rounds, seed, status);
			check(false, "the reader ends by itself", __LINE__);
			break;
		}
		free(reader->in);
		gc_frame_free(&reader->out);
		free(reader);
		rounds++;
	}
	CHECK(rounds > 10);
}
