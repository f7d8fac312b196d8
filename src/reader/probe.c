/*
 * probe.c: the thread for what blocks.
 *
 * Questions of the server (topics, offsets by time, single records) and the loop's own (is the server
 * there, where does a partition begin and end) wait for brokers. They are answered one after the other, the
 * server's each with a deadline that counts from when it was asked. The loop and this thread share two lists under one lock and
 * nothing else; the sources say what of theirs may be used here.
 */
#include "reader.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/time_text.h"
#include "port/pg_crc32c.h"

static const GcSource *source;
static pthread_t thread;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER;
static GcJob *todo;
static GcJob **todo_tail = &todo;
static GcJob *done;
static GcJob **done_tail = &done;
static int	wake_fd = -1;

int64
gc_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int
gc_job_left(const GcJob *job)
{
	return (int) Max(job->deadline - gc_now(), 0);
}

void
gc_job_free(GcJob *job)
{
	gc_frame_free(&job->answer);
	pg_free(job->topic);
	pg_free(job);
}

static void
carry_out(GcJob *job)
{
	if (job->kind != GC_JOB_QUERY)
		job->deadline += gc_now() - job->asked_at;
	switch (job->kind)
	{
		case GC_JOB_PING:
			source->ping(job);
			break;
		case GC_JOB_RANGE:
		case GC_JOB_NUDGE:
			source->range(job);
			break;
		case GC_JOB_CHECK:
			source->check(job);
			break;
		case GC_JOB_QUERY:
			if (gc_job_left(job) == 0)
				gc_answer_fail(job, GC_TROUBLE_TRANSIENT, "timed out behind other questions");
			else
				source->query(job);
			if (job->rows_at > 0)
			{
				memcpy(job->answer.data + job->rows_at, &job->rows, sizeof(job->rows));
				gc_frame_finish(&job->answer);
			}
			break;
	}
}

static void *
probe_main(void *unused)
{
	for (;;)
	{
		GcJob	   *job;
		uint64		one = 1;

		pthread_mutex_lock(&lock);
		while (todo == NULL)
			pthread_cond_wait(&asked, &lock);
		job = todo;
		todo = job->next;
		if (todo == NULL)
			todo_tail = &todo;
		pthread_mutex_unlock(&lock);

		carry_out(job);

		pthread_mutex_lock(&lock);
		job->next = NULL;
		*done_tail = job;
		done_tail = &job->next;
		pthread_mutex_unlock(&lock);
		if (write(wake_fd, &one, sizeof(one)) < 0)
		{
			/* full: then it is readable */
		}
	}
	return NULL;
}

void
gc_probe_start(const GcSource *of)
{
	int			err;

	source = of;
	wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	err = wake_fd < 0 ? errno : pthread_create(&thread, NULL, probe_main, NULL);
	if (err != 0)
	{
		fprintf(stderr, "guest_context_reader: could not start a thread: %s\n", strerror(err));
		_exit(1);
	}
}

int
gc_probe_fd(void)
{
	return wake_fd;
}

void
gc_probe_ask(GcJob *job)
{
	job->next = NULL;
	job->asked_at = gc_now();
	pthread_mutex_lock(&lock);
	if (job->kind == GC_JOB_QUERY)
	{
		*todo_tail = job;
		todo_tail = &job->next;
	}
	else
	{
		/* the loop's own go first: a partition waits for them */
		job->next = todo;
		todo = job;
		if (job->next == NULL)
			todo_tail = &job->next;
	}
	pthread_cond_signal(&asked);
	pthread_mutex_unlock(&lock);
}

GcJob *
gc_probe_result(void)
{
	GcJob	   *job;
	uint64		count;

	pthread_mutex_lock(&lock);
	job = done;
	if (job != NULL)
	{
		done = job->next;
		if (done == NULL)
			done_tail = &done;
	}
	else if (read(wake_fd, &count, sizeof(count)) < 0)
	{
		/* nothing was written */
	}
	pthread_mutex_unlock(&lock);
	return job;
}

/*
 * Answers. Begun with the number of columns, then cell by cell; what fails starts over.
 */

void
gc_answer_begin(GcJob *job, int columns)
{
	job->answer.len = job->answer.start = 0;
	job->rows = 0;
	job->failed = false;
	gc_frame_begin(&job->answer, GC_FRAME_ANSWER);
	gc_frame_put_u32(&job->answer, job->id);
	gc_frame_put_u8(&job->answer, 1);
	gc_frame_put_text(&job->answer, NULL, 0);
	gc_frame_put_u8(&job->answer, GC_TROUBLE_NONE);
	job->rows_at = job->answer.len;
	gc_frame_put_u32(&job->answer, 0);
	gc_frame_put_u32(&job->answer, (uint32) columns);
}

/* Before the cells of each row. */
void
gc_answer_row(GcJob *job)
{
	job->rows++;
}

void
gc_answer_text(GcJob *job, const char *text, size_t len)
{
	gc_frame_put_text(&job->answer, text, len);
}

void
gc_answer_number(GcJob *job, int64 number)
{
	char		text[32];

	gc_frame_put_text(&job->answer, text, snprintf(text, sizeof(text), INT64_FORMAT, number));
}

/* As text in UTC, or null when there is none. */
void
gc_answer_time(GcJob *job, int64 us)
{
	char		text[GC_TIME_TEXT_SIZE];

	if (us == GC_NO_TIMESTAMP || !gc_time_in_range(us))
		gc_frame_put_text(&job->answer, NULL, 0);
	else
		gc_frame_put_text(&job->answer, text, gc_time_format(us, GC_KIND_TIMESTAMPTZ, text));
}

void
gc_answer_fail(GcJob *job, GcTrouble trouble, const char *text)
{
	job->answer.len = job->answer.start = 0;
	job->rows = 0;
	job->failed = true;
	job->failure = trouble;
	strlcpy(job->text, text, sizeof(job->text));
	gc_frame_begin(&job->answer, GC_FRAME_ANSWER);
	gc_frame_put_u32(&job->answer, job->id);
	gc_frame_put_u8(&job->answer, 0);
	gc_frame_put_string(&job->answer, text);
	gc_frame_put_u8(&job->answer, (uint8) trouble);
	job->rows_at = job->answer.len;
	gc_frame_put_u32(&job->answer, 0);
	gc_frame_put_u32(&job->answer, 0);
}

/*
 * RECORD: offset, time, CRC-32C over the bytes of key and value, one behind the other, null being none.
 * PEEK: partition, offset, time, key, value.
 */
void
gc_answer_record(GcJob *job, const GcMessage *message, int64 offset)
{
	const GcDecodeInput *in = &message->in;

	gc_answer_row(job);
	if (job->what == GC_QUERY_PEEK)
		gc_answer_number(job, job->partition);
	gc_answer_number(job, offset);
	gc_answer_time(job, in->timestamp_us);
	if (job->what == GC_QUERY_PEEK)
	{
		gc_answer_text(job, in->key, in->key_len);
		gc_answer_text(job, in->value, in->value_len);
	}
	else
	{
		pg_crc32c	crc;

		INIT_CRC32C(crc);
		COMP_CRC32C(crc, in->key ? in->key : "", in->key_len);
		COMP_CRC32C(crc, in->value ? in->value : "", in->value_len);
		FIN_CRC32C(crc);
		gc_answer_number(job, (int64) crc);
	}
}
