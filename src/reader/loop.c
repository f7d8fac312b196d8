/*
 * loop.c: the event loop: frames in, records out, nothing that blocks.
 *
 * One round reads the server's frames, takes records from the source while the out buffer has room,
 * writes what the socket takes and waits in poll(). When the server does not read, the out
 * buffer stays full, nothing more is taken, and the source's own queue stops fetching: memory
 * stays bounded from end to end.
 *
 * Errors. A frame that does not fit, an option that is refused, a fatal error of the library: a
 * SERVER frame says FAILED, and the program ends with status 1. The end of the stream ends it at once.
 */
#include "reader.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fault_point.h"

#define OUT_LEAST			(256 * 1024)	/* bytes that may wait to be written */
#define OUT_MOST			(8 * 1024 * 1024)
#define READ_AT_ONCE		(64 * 1024)
#define PING_MS				1000
#define PING_UP_MS			5000
#define QUERY_MOST_MS		(60 * 60 * 1000)
#define PING_TIMEOUT_MS		1000	/* questions wait for it */
#define PING_UP_TIMEOUT_MS	4000	/* before the server is said not to answer any more */
#define REFUSED_MS			60000
#define LOG_LINES			20	/* in LOG_MS; the others are counted */
#define LOG_MS				10000

GcFrameBuffer gc_out;

static size_t out_done;			/* bytes of gc_out that have been written */
static size_t out_limit;
static char *in;
static size_t in_len;
static size_t in_room;
static const GcSource *source;	/* NULL = not configured */
static GcSettings settings;
static GcServerState state;		/* 0 = not known */
static int64 refused_at;
static bool ping_asked;
static int64 ping_at;
static int64 log_at;
static int	log_lines;
static pid_t parent;

const char *
gc_setting(const GcSettings *of, const char *name)
{
	for (int i = 0; i < of->noptions; i++)
		if (strcmp(of->options[i].name, name) == 0)
			return of->options[i].value;
	return NULL;
}

/* The socket's other end is gone: nobody is left to tell. */
static void
lost(void)
{
	_exit(0);
}

static void
write_out(void)
{
	while (out_done < gc_out.len)
	{
		ssize_t		n;

		GC_FAULT_HALF("reader: half of a frame sent", STDIN_FILENO, gc_out.data + out_done, gc_out.len - out_done);
		n = send(STDIN_FILENO, gc_out.data + out_done, gc_out.len - out_done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0)
			lost();
		out_done += (size_t) n;
	}

	/* moving what is left costs; do it when there is little of it */
	if (out_done == gc_out.len || out_done > gc_out.len / 2)
	{
		gc_frame_consume(&gc_out, out_done);
		out_done = 0;
	}
}

/* Nothing is taken then. */
bool
gc_out_full(void)
{
	return gc_out.len - out_done >= out_limit;
}

bool
gc_loop_is_up(void)
{
	return state == GC_SERVER_UP;
}

static void
put_server(const char *text)
{
	gc_frame_begin(&gc_out, GC_FRAME_SERVER);
	gc_frame_put_u8(&gc_out, (uint8) state);
	gc_frame_put_string(&gc_out, text ? text : "");
	gc_frame_finish(&gc_out);
}

/* Tells the server why, as far as it listens for a second, and ends. */
void
gc_loop_fail(const char *text)
{
	int64		until = gc_now() + 1000;

	state = GC_SERVER_FAILED;
	put_server(text);
	while (write_out(), gc_out.len > 0 && gc_now() < until)
	{
		struct pollfd fd = {STDIN_FILENO, POLLOUT, 0};

		poll(&fd, 1, 100);
	}
	_exit(1);
}

/*
 * What the sources tell
 */

void
gc_loop_log(int level, const char *text)
{
	int64		now = gc_now();

	if (now - log_at >= LOG_MS)
	{
		int			missed = log_lines - LOG_LINES;

		log_at = now;
		log_lines = 0;
		if (missed > 0)
		{
			char		line[64];

			snprintf(line, sizeof(line), "%d more lines were left out", missed);
			gc_loop_log(5, line);
		}
	}
	if (log_lines++ >= LOG_LINES)
		return;
	gc_frame_begin(&gc_out, GC_FRAME_LOG);
	gc_frame_put_u8(&gc_out, (uint8) level);
	gc_frame_put_string(&gc_out, text);
	gc_frame_finish(&gc_out);
}

void
gc_loop_server(GcServerState new_state, const char *text)
{
	if (new_state == GC_SERVER_AUTHENTICATION)
		refused_at = gc_now();
	if (state == new_state)
		return;

	/* that all brokers are down is said of those too that are there and refuse us */
	if (state == GC_SERVER_AUTHENTICATION && new_state == GC_SERVER_DOWN && gc_now() - refused_at < REFUSED_MS)
		return;
	if (new_state == GC_SERVER_FAILED)
		gc_loop_fail(text);
	state = new_state;
	ping_at = gc_now() + (state == GC_SERVER_UP ? PING_UP_MS : PING_MS);
	put_server(text);
}

/*
 * Frames
 */

static char *
get_string(GcFrame *frame)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	if (text == NULL || memchr(text, '\0', len) != NULL)
	{
		frame->bad = true;
		return pg_strdup("");
	}
	return pnstrdup(text, len);
}

static void
configure(GcFrame *frame)
{
	char		text[1024] = "";
	uint32		n;

	settings.kind = get_string(frame);
	n = gc_frame_get_u32(frame);
	if (n > (uint32) (frame->end - frame->at))
		frame->bad = true;
	settings.options = pg_malloc0((frame->bad ? 1 : Max(n, 1)) * sizeof(GcSetting));
	for (uint32 i = 0; i < n && !frame->bad; i++)
	{
		settings.options[i].name = get_string(frame);
		settings.options[i].value = get_string(frame);
		settings.noptions++;
	}
	settings.memory = gc_frame_get_u64(frame);
	if (!gc_frame_end(frame))
		return;

	if (strcmp(settings.kind, gc_kafka_source.kind) == 0)
		source = &gc_kafka_source;
	else if (strcmp(settings.kind, gc_file_source.kind) == 0)
		source = &gc_file_source;
	gc_frame_begin(&gc_out, GC_FRAME_HELLO);
	gc_frame_put_u32(&gc_out, GC_PROTOCOL);
	gc_frame_put_string(&gc_out, gc_kafka_versions());
	gc_frame_finish(&gc_out);
	if (source == NULL)
		gc_loop_fail("unknown kind of server");
	if (settings.memory)
		out_limit = (size_t) Min(Max(settings.memory / 8, OUT_LEAST), OUT_MOST);
	gc_limit_memory(settings.memory);
	if (!source->start(&settings, text, sizeof(text)))
		gc_loop_fail(text);

	/* what may be secret is not needed any more */
	for (int i = 0; i < settings.noptions; i++)
	{
		explicit_bzero(settings.options[i].value, strlen(settings.options[i].value));
		pg_free(settings.options[i].name);
		pg_free(settings.options[i].value);
	}
	settings.noptions = 0;
	gc_parts_start(source, settings.memory);
	gc_probe_start(source);
}

static void
ask(GcFrame *frame)
{
	GcJob	   *job = pg_malloc0(sizeof(GcJob));
	uint32		timeout;
	const char *topic;
	size_t		len;

	job->kind = GC_JOB_QUERY;
	job->id = gc_frame_get_u32(frame);
	job->what = (GcQuery) gc_frame_get_u8(frame);
	timeout = gc_frame_get_u32(frame);
	job->deadline = gc_now() + Min(Max(timeout, 1), QUERY_MOST_MS);
	topic = gc_frame_get_text(frame, &len);
	if (topic != NULL && memchr(topic, '\0', len) != NULL)
		frame->bad = true;
	job->topic = topic ? pnstrdup(topic, len) : NULL;
	job->partition = (int32) gc_frame_get_u32(frame);
	job->number = (int64) gc_frame_get_u64(frame);
	if (!gc_frame_end(frame))
		gc_job_free(job);
	else
		gc_probe_ask(job);
}

static void stop(void) __attribute__((noreturn));

static void
handle(GcFrame *frame)
{
	uint32		id;
	int32		partition;
	uint32		epoch;
	int64		number;
	GcPart	   *part;

	if ((source == NULL) != (frame->type == GC_FRAME_CONFIGURE))
		gc_loop_fail("protocol violation: CONFIGURE is the first frame, once");
	switch (frame->type)
	{
		case GC_FRAME_CONFIGURE:
			configure(frame);
			break;
		case GC_FRAME_SUBSCRIBE:
			gc_parts_subscribe(frame);
			break;
		case GC_FRAME_ASSIGN:
			id = gc_frame_get_u32(frame);
			partition = (int32) gc_frame_get_u32(frame);
			epoch = gc_frame_get_u32(frame);
			number = (int64) gc_frame_get_u64(frame);
			if (gc_frame_end(frame))
				gc_parts_assign(id, partition, epoch, number);
			break;
		case GC_FRAME_UNASSIGN:
			id = gc_frame_get_u32(frame);
			part = gc_part_find(id, (int32) gc_frame_get_u32(frame));
			if (gc_frame_end(frame) && part != NULL)
				gc_part_forget(part);
			break;
		case GC_FRAME_CREDIT:
			id = gc_frame_get_u32(frame);
			part = gc_part_find(id, (int32) gc_frame_get_u32(frame));
			epoch = gc_frame_get_u32(frame);
			number = (int64) gc_frame_get_u64(frame);
			if (number < 0)
				frame->bad = true;
			if (gc_frame_end(frame) && part != NULL && part->epoch == epoch)
				part->credit = Min(part->credit, PG_INT64_MAX / 2) + Min(number, PG_INT64_MAX / 4);
			break;
		case GC_FRAME_COMMIT:
			id = gc_frame_get_u32(frame);
			part = gc_part_find(id, (int32) gc_frame_get_u32(frame));
			number = (int64) gc_frame_get_u64(frame);
			if (gc_frame_end(frame) && part != NULL && number >= 0)
				gc_part_commit(part, number);
			break;
		case GC_FRAME_QUERY:
			ask(frame);
			break;
		case GC_FRAME_STOP:
			if (gc_frame_end(frame))
				stop();
			break;
		default:
			frame->bad = true;
	}
	if (!gc_frame_end(frame))
		gc_loop_fail("protocol violation: a frame of the server cannot be read");
}

static void
read_in(void)
{
	size_t		at = 0;
	ssize_t		n;
	GcFrame		frame;

	if (in_room - in_len < READ_AT_ONCE)
	{
		in_room = Max(in_room * 2, 2 * READ_AT_ONCE);
		in = pg_realloc(in, in_room);
	}
	n = recv(STDIN_FILENO, in + in_len, in_room - in_len, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
		lost();
	if (n < 0)
		return;
	in_len += (size_t) n;
	while ((n = gc_frame_next(in + at, in_len - at, &frame)) > 0)
	{
		handle(&frame);
		at += (size_t) n;
	}
	if (n < 0)
		gc_loop_fail("protocol violation: what the server sent is not a frame");
	if (at > 0)
	{
		/* no secret stays behind in what was CONFIGURE */
		explicit_bzero(in, at);
		memmove(in, in + at, in_len - at);
		in_len -= at;
	}
}

static void
collect_results(void)
{
	GcJob	   *job;

	while ((job = gc_probe_result()) != NULL)
	{
		GcFrame		frame;

		switch (job->kind)
		{
			case GC_JOB_QUERY:
				if (gc_frame_next(job->answer.data, job->answer.len, &frame) > 0)
					gc_frame_put_bytes(&gc_out, job->answer.data, job->answer.len);
				break;
			case GC_JOB_PING:
				ping_asked = false;
				ping_at = gc_now() + (job->state == GC_SERVER_UP ? PING_UP_MS : PING_MS);
				gc_loop_server(job->state, job->text);
				break;
			case GC_JOB_RANGE:
				gc_part_ranged(job);
				break;
			case GC_JOB_CHECK:
				gc_part_checked(job);
				break;
			case GC_JOB_NUDGE:
				gc_part_nudged();
				break;
		}
		gc_job_free(job);
	}
}

/* What has its time; returns ms until the next. */
static int
tick(void)
{
	int64		now = gc_now();
	int			wait;

	if (getppid() != parent)
		lost();
	wait = gc_parts_tick();
	if (!ping_asked && now >= ping_at)
	{
		GcJob	   *job = pg_malloc0(sizeof(GcJob));

		ping_asked = true;
		job->kind = GC_JOB_PING;
		job->deadline = now + (state == GC_SERVER_UP ? PING_UP_TIMEOUT_MS : PING_TIMEOUT_MS);
		gc_probe_ask(job);
	}
	return Max(Min(wait, source->wait_ms()), 1);
}

static void
stop(void)
{
	gc_parts_stop();
	source->stop();
	_exit(0);
}

int
gc_loop_run(void)
{
	parent = getppid();
	out_limit = OUT_LEAST;
	for (;;)
	{
		struct pollfd fds[3] = {{STDIN_FILENO, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLIN, 0}};
		int			wait = 1000;
		bool		was_full = false;

		if (source != NULL)
		{
			bool		more;

			if (gc_parts_take(&more))
				fds[2].fd = source->wait_fd();
			wait = tick();
			if (more)
				wait = 0;
			fds[1].fd = gc_probe_fd();
			was_full = gc_out_full();
		}
		write_out();
		if (was_full && !gc_out_full())
			wait = 0;			/* for that it has waited, and nobody will say so */
		if (gc_out.len > 0)
			fds[0].events |= POLLOUT;
		if (poll(fds, 3, wait) < 0 && errno != EINTR)
			gc_loop_fail("could not wait for events");
		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			read_in();
		if (fds[1].revents)
			collect_results();
	}
}
