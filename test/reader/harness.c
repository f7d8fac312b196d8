/*
 * harness.c: starts a reader program and talks to it.
 */
#include "postgres_fe.h"

#include "harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *reader_program;
bool		reader_sanitized;
int			npassed;
int			nfailed;
const char *test_name = "";

void
check(bool right, const char *what, int line)
{
	if (right)
		npassed++;
	else
	{
		nfailed++;
		printf("FAILED %s, line %d: %s\n", test_name, line, what);
		fflush(stdout);
	}
}

int64
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

Reader *
reader_start(void)
{
	Reader	   *reader = pg_malloc0(sizeof(Reader));
	int			pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		exit(2);
	reader->pid = fork();
	if (reader->pid == 0)
	{
		dup2(pair[1], STDIN_FILENO);
		if (!reader_sanitized)
			dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		execl(reader_program, reader_program, NULL);
		_exit(127);
	}
	close(pair[1]);
	reader->socket = pair[0];
	return reader;
}

Reader *
reader_open(const char *kind, uint64 memory, const char *const *options)
{
	Reader	   *reader = reader_start();
	uint32		n = 0;

	while (options[2 * n])
		n++;
	gc_frame_begin(&reader->out, GC_FRAME_CONFIGURE);
	gc_frame_put_string(&reader->out, kind);
	gc_frame_put_u32(&reader->out, n);
	for (uint32 i = 0; i < 2 * n; i++)
		gc_frame_put_string(&reader->out, options[i]);
	gc_frame_put_u64(&reader->out, memory);
	gc_frame_finish(&reader->out);
	reader_flush(reader);
	return reader;
}

void
reader_flush(Reader *reader)
{
	size_t		done = 0;

	while (done < reader->out.len)
	{
		ssize_t		n = send(reader->socket, reader->out.data + done, reader->out.len - done, MSG_NOSIGNAL);

		if (n < 0)
			break;
		done += (size_t) n;
	}
	gc_frame_consume(&reader->out, reader->out.len);
}

bool
reader_exited(Reader *reader, int timeout_ms, int *status)
{
	int64		until = now_ms() + timeout_ms;

	do
	{
		if (waitpid(reader->pid, status, WNOHANG) == reader->pid)
		{
			close(reader->socket);
			return true;
		}
		usleep(5000);
	} while (now_ms() < until);
	return false;
}

void
reader_close(Reader *reader)
{
	int			status = -1;

	gc_frame_begin(&reader->out, GC_FRAME_STOP);
	gc_frame_finish(&reader->out);
	reader_flush(reader);
	if (!reader_exited(reader, 3000, &status))
	{
		kill(reader->pid, SIGKILL);
		waitpid(reader->pid, &status, 0);
	}
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the reader stops when it is told to", __LINE__);
}

/*
 * Frames of the reader
 */

static char *
get_text(GcFrame *frame, size_t *len)
{
	size_t		unused;
	const char *text = gc_frame_get_text(frame, len ? len : &unused);

	if (text == NULL)
		return NULL;
	return pnstrdup(text, len ? *len : unused);
}

static void
forget(Event *event)
{
	free(event->key);
	free(event->value);
	free(event->text);
	for (int i = 0; i < MAX_HEADERS; i++)
	{
		free(event->header_names[i]);
		free(event->header_values[i]);
	}
	for (int i = 0; i < MAX_DECODINGS; i++)
	{
		for (int j = 0; j < MAX_COLUMNS; j++)
			free(event->decodings[i].columns[j]);
		free(event->decodings[i].sqlstate);
		free(event->decodings[i].message);
	}
	for (uint32 i = 0; event->cells && i < event->rows * event->columns; i++)
		free(event->cells[i]);
	free(event->cells);
	memset(event, 0, sizeof(*event));
}

static void
get_record(GcFrame *frame, Event *event)
{
	uint32		n;

	event->offset = (int64) gc_frame_get_u64(frame);
	event->time = (int64) gc_frame_get_u64(frame);
	event->key = get_text(frame, NULL);
	event->value = get_text(frame, &event->value_len);
	n = gc_frame_get_u32(frame);
	for (uint32 i = 0; i < n && !frame->bad; i++)
	{
		char	   *name = get_text(frame, NULL);
		char	   *value = get_text(frame, NULL);

		if (i < MAX_HEADERS)
		{
			event->header_names[i] = name;
			event->header_values[i] = value;
		}
		else
		{
			free(name);
			free(value);
		}
	}
	event->nheaders = (int) n;
	event->ndecodings = (int) gc_frame_get_u32(frame);
	for (int i = 0; i < event->ndecodings && i < MAX_DECODINGS && !frame->bad; i++)
	{
		Decoding   *decoding = &event->decodings[i];

		decoding->changelog = (int32) gc_frame_get_u32(frame);
		decoding->status = (GcDecodeStatus) gc_frame_get_u8(frame);
		if (decoding->status <= GC_DECODE_TOMBSTONE)
		{
			decoding->version = (int64) gc_frame_get_u64(frame);
			decoding->ncolumns = (int) gc_frame_get_u32(frame);
			for (int j = 0; j < decoding->ncolumns && j < MAX_COLUMNS && !frame->bad; j++)
				if (gc_frame_get_u8(frame) == GC_FIELD_TEXT)
					decoding->columns[j] = get_text(frame, NULL);
		}
		else
		{
			decoding->sqlstate = get_text(frame, NULL);
			decoding->message = get_text(frame, NULL);
			free(get_text(frame, NULL));
			free(get_text(frame, NULL));
		}
	}
}

static void
get_event(GcFrame *frame, Event *event)
{
	event->type = frame->type;
	event->bytes = (size_t) (frame->end - frame->at);
	if (frame->type == GC_FRAME_RECORD || frame->type == GC_FRAME_POSITION || frame->type == GC_FRAME_TROUBLE)
	{
		event->number = gc_frame_get_u32(frame);
		event->partition = (int32) gc_frame_get_u32(frame);
		event->epoch = gc_frame_get_u32(frame);
	}
	switch (frame->type)
	{
		case GC_FRAME_HELLO:
			event->number = gc_frame_get_u32(frame);
			event->text = get_text(frame, NULL);
			break;
		case GC_FRAME_RECORD:
			get_record(frame, event);
			break;
		case GC_FRAME_POSITION:
			event->offset = (int64) gc_frame_get_u64(frame);
			event->end = (int64) gc_frame_get_u64(frame);
			event->at_end = gc_frame_get_u8(frame);
			break;
		case GC_FRAME_TROUBLE:
			event->trouble = (GcTrouble) gc_frame_get_u8(frame);
			event->offset = (int64) gc_frame_get_u64(frame);
			event->low = (int64) gc_frame_get_u64(frame);
			event->high = (int64) gc_frame_get_u64(frame);
			event->text = get_text(frame, NULL);
			break;
		case GC_FRAME_SERVER:
		case GC_FRAME_LOG:
			event->state = gc_frame_get_u8(frame);
			event->text = get_text(frame, NULL);
			break;
		case GC_FRAME_ANSWER:
			event->number = gc_frame_get_u32(frame);
			event->ok = gc_frame_get_u8(frame);
			event->text = get_text(frame, NULL);
			event->trouble = (GcTrouble) gc_frame_get_u8(frame);
			event->rows = gc_frame_get_u32(frame);
			event->columns = gc_frame_get_u32(frame);
			event->cells = pg_malloc0(sizeof(char *) * (event->rows * event->columns + 1));
			for (uint32 i = 0; i < event->rows * event->columns && !frame->bad; i++)
				event->cells[i] = get_text(frame, NULL);
			break;
		default:
			frame->bad = true;
	}
	if (!gc_frame_end(frame))
		check(false, "a frame of the reader can be read", __LINE__);
}

Event *
reader_next(Reader *reader, int timeout_ms)
{
	int64		until = now_ms() + timeout_ms;

	for (;;)
	{
		GcFrame		frame;
		ssize_t		size = gc_frame_next(reader->in + reader->in_at, reader->in_len - reader->in_at, &frame);
		struct pollfd fd = {reader->socket, POLLIN, 0};
		ssize_t		n;

		if (size < 0)
		{
			check(false, "the reader sends frames", __LINE__);
			reader->closed = true;
		}
		if (size > 0)
		{
			forget(&reader->event);
			get_event(&frame, &reader->event);
			reader->in_at += (size_t) size;
			if (reader->event.type == GC_FRAME_LOG)
			{
				if (getenv("GC_READER_LOG"))
					printf("# %d %s\n", reader->event.state, reader->event.text);
				continue;
			}
			if (getenv("GC_READER_LOG") && reader->event.type != GC_FRAME_RECORD)
				printf("# %c %u [%d] epoch %u offset %lld end %lld at_end %d trouble %d low %lld high %lld state %d: %s\n",
					   reader->event.type, reader->event.number, reader->event.partition, reader->event.epoch,
					   (long long) reader->event.offset, (long long) reader->event.end, reader->event.at_end,
					   reader->event.trouble, (long long) reader->event.low, (long long) reader->event.high,
					   reader->event.state, reader->event.text ? reader->event.text : "");
			return &reader->event;
		}
		if (reader->closed || poll(&fd, 1, (int) Max(until - now_ms(), 0)) <= 0)
			return NULL;
		if (reader->in_at > 0)
			memmove(reader->in, reader->in + reader->in_at, reader->in_len - reader->in_at);
		reader->in_len -= reader->in_at;
		reader->in_at = 0;
		if (reader->in_room - reader->in_len < 65536)
		{
			reader->in_room = Max(2 * reader->in_room, 131072);
			reader->in = pg_realloc(reader->in, reader->in_room);
		}
		n = recv(reader->socket, reader->in + reader->in_len, reader->in_room - reader->in_len, 0);
		if (n <= 0)
			reader->closed = true;
		else
			reader->in_len += (size_t) n;
	}
}

Event *
reader_wait(Reader *reader, GcFrameType type, int timeout_ms)
{
	int64		until = now_ms() + timeout_ms;
	Event	   *event;

	while ((event = reader_next(reader, (int) Max(until - now_ms(), 0))) != NULL)
		if (event->type == type)
			return event;
	return NULL;
}

/*
 * Frames to the reader
 */

/* Columns ref (key), name, total, modified_at (version). A filter per changelog, or NULL. */
void
say_subscribe(Reader *reader, uint32 id, const char *topic, int nchangelogs, const char *const *filters,
			  GcEnvelope envelope)
{
	static const struct
	{
		const char *name;
		GcColumnKind kind;
		int			flags;
	}			columns[] = {{"ref", GC_KIND_TEXT, 1}, {"name", GC_KIND_TEXT, 0}, {"total", GC_KIND_OTHER, 0},
		{"modified_at", GC_KIND_TIMESTAMPTZ, 2}};

	gc_frame_begin(&reader->out, GC_FRAME_SUBSCRIBE);
	gc_frame_put_u32(&reader->out, id);
	gc_frame_put_string(&reader->out, topic);
	gc_frame_put_u32(&reader->out, (uint32) nchangelogs);
	for (int i = 0; i < nchangelogs; i++)
	{
		gc_frame_put_u32(&reader->out, (uint32) (100 + i));
		gc_frame_put_u8(&reader->out, (uint8) envelope);
		gc_frame_put_string(&reader->out, NULL);
		gc_frame_put_string(&reader->out, filters ? filters[i] : NULL);
		gc_frame_put_u64(&reader->out, 1024 * 1024);
		gc_frame_put_u32(&reader->out, lengthof(columns));
		for (int j = 0; j < lengthof(columns); j++)
		{
			gc_frame_put_string(&reader->out, columns[j].name);
			gc_frame_put_u8(&reader->out, (uint8) columns[j].kind);
			gc_frame_put_u8(&reader->out, 0);
			gc_frame_put_u8(&reader->out, (uint8) columns[j].flags);
		}
	}
	gc_frame_finish(&reader->out);
	reader_flush(reader);
}

static void
begin(Reader *reader, GcFrameType type, uint32 id, int32 partition)
{
	gc_frame_begin(&reader->out, type);
	gc_frame_put_u32(&reader->out, id);
	gc_frame_put_u32(&reader->out, (uint32) partition);
}

static void
finish(Reader *reader)
{
	gc_frame_finish(&reader->out);
	reader_flush(reader);
}

void
say_assign(Reader *reader, uint32 id, int32 partition, uint32 epoch, int64 offset)
{
	begin(reader, GC_FRAME_ASSIGN, id, partition);
	gc_frame_put_u32(&reader->out, epoch);
	gc_frame_put_u64(&reader->out, (uint64) offset);
	finish(reader);
}

void
say_unassign(Reader *reader, uint32 id, int32 partition)
{
	begin(reader, GC_FRAME_UNASSIGN, id, partition);
	finish(reader);
}

void
say_credit(Reader *reader, uint32 id, int32 partition, uint32 epoch, uint64 bytes)
{
	begin(reader, GC_FRAME_CREDIT, id, partition);
	gc_frame_put_u32(&reader->out, epoch);
	gc_frame_put_u64(&reader->out, bytes);
	finish(reader);
}

void
say_commit(Reader *reader, uint32 id, int32 partition, int64 offset)
{
	begin(reader, GC_FRAME_COMMIT, id, partition);
	gc_frame_put_u64(&reader->out, (uint64) offset);
	finish(reader);
}

void
say_query(Reader *reader, uint32 id, GcQuery what, uint32 timeout, const char *topic, int32 partition, int64 number)
{
	gc_frame_begin(&reader->out, GC_FRAME_QUERY);
	gc_frame_put_u32(&reader->out, id);
	gc_frame_put_u8(&reader->out, (uint8) what);
	gc_frame_put_u32(&reader->out, timeout);
	gc_frame_put_string(&reader->out, topic);
	gc_frame_put_u32(&reader->out, (uint32) partition);
	gc_frame_put_u64(&reader->out, (uint64) number);
	finish(reader);
}

Event *
ask(Reader *reader, GcQuery what, const char *topic, int32 partition, int64 number)
{
	static uint32 id;
	static Event none;
	Event	   *event;

	say_query(reader, ++id, what, 5000, topic, partition, number);
	while ((event = reader_wait(reader, GC_FRAME_ANSWER, 6000)) != NULL)
		if (event->number == id)
			return event;
	check(false, "a question is answered", __LINE__);
	none.cells = NULL;
	return &none;
}
