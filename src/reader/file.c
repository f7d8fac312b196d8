/*
 * file.c: servers of TYPE 'file': a directory of topics, a file per partition.
 *
 *		<directory>/<topic>/<partition>.jsonl
 *
 * A line is a record: {"key": ..., "value": ..., "ts": ..., "headers": {...}}. value is the record's value as JSON,
 * null a tombstone; key and headers are texts as they are, other JSON as spelled; ts counts
 * milliseconds, or is an ISO 8601 text. A line that is something else is a record that cannot be
 * read, for the dead letters. Blank lines mean nothing. The offset is the byte that the line begins at.
 *
 * Files may grow while they are read; a last line without its end is not there yet. Nothing tells of growth, so
 * each file is looked at ten times a second. A file that is shorter than it was is out of range.
 */
#include "reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/json_scan.h"
#include "common/time_text.h"

#define LOOK_MS			100
#define READ_BYTES		(256 * 1024)
#define LINE_MAX_BYTES	((size_t) GC_MAX_VALUE_BYTES_LIMIT + GC_MAX_KEY_BYTES + 2 * GC_MAX_HEADER_BYTES)

/* Bytes of a file from a line's start on. */
typedef struct LineReader
{
	int			fd;
	int64		at;				/* offset of the first byte in data */
	char	   *data;
	size_t		len;
	size_t		room;
	size_t		searched;		/* bytes of data known to have no line end */
	size_t		line;			/* bytes of the line that was returned last, with its end */
} LineReader;

typedef struct FilePart
{
	LineReader	lines;
	int64		look_at;		/* ms: when to read on */
} FilePart;

/* Makes a record of a line. One per thread. */
typedef struct LineParser
{
	GcArena		arena;
	GcArena		paths;
	GcJsonScanner *scanner;
	GcPath	   *root;
	GcHeader   *headers;
	int			headers_room;
} LineParser;

enum
{
	SLOT_KEY, SLOT_VALUE, SLOT_TS, SLOT_HEADERS, SLOTS
};

static char *directory;
static LineParser parser;
static LineParser probe_parser;	/* the probe's */
static GcPart **reading;
static int	nreading;
static int	turn;				/* whose it is */

/*
 * Files
 */

/* Is it a name that stays inside of the directory? */
static bool
plain_name(const char *topic)
{
	return topic[0] != '\0' && topic[0] != '.' && strchr(topic, '/') == NULL;
}

/* A descriptor, or -1 and errno. */
static int
open_partition(const char *topic, int32 partition)
{
	char		path[MAXPGPATH];
	struct stat st;
	int			fd;

	if (!plain_name(topic) ||
		snprintf(path, sizeof(path), "%s/%s/%d.jsonl", directory, topic, partition) >= (int) sizeof(path))
	{
		errno = ENOENT;
		return -1;
	}
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)))
	{
		close(fd);
		errno = ENOENT;
		return -1;
	}
	return fd;
}

static GcTrouble
trouble_of(int err)
{
	switch (err)
	{
		case ENOENT:
		case ENOTDIR:
			return GC_TROUBLE_NO_TOPIC;
		case EACCES:
		case EPERM:
			return GC_TROUBLE_DENIED;
		default:
			return GC_TROUBLE_TRANSIENT;
	}
}

/* Where the last complete line ends. */
static int64
end_of_lines(int fd)
{
	char		chunk[8192];
	struct stat st;
	int64		end;

	if (fstat(fd, &st) != 0)
		return -1;
	end = st.st_size;
	while (end > 0)
	{
		size_t		want = (size_t) Min(end, (int64) sizeof(chunk));
		ssize_t		n = pread(fd, chunk, want, end - (int64) want);

		if (n != (ssize_t) want)
			return -1;
		while (n > 0 && chunk[n - 1] != '\n')
			n--;
		end -= (int64) want - n;
		if (n > 0)
			break;
	}
	return end;
}

static void
lines_begin(LineReader *lines, int fd, int64 at)
{
	lines->fd = fd;
	lines->at = at;
	lines->len = lines->searched = lines->line = 0;
}

static void
lines_end(LineReader *lines)
{
	if (lines->fd >= 0)
		close(lines->fd);
	pg_free(lines->data);
	memset(lines, 0, sizeof(*lines));
	lines->fd = -1;
}

/*
 * The next complete line, blank ones left out, with its offset; *text is valid until the next call. 1 = there is
 * one, 0 = not now, -1 = errno.
 */
static int
lines_next(LineReader *lines, const char **text, size_t *len, int64 *offset)
{
	for (;;)
	{
		char	   *end;
		ssize_t		n;

		if (lines->line > 0)
		{
			memmove(lines->data, lines->data + lines->line, lines->len - lines->line);
			lines->len -= lines->line;
			lines->at += (int64) lines->line;
			lines->line = 0;
		}
		end = lines->len > lines->searched ?
			memchr(lines->data + lines->searched, '\n', lines->len - lines->searched) : NULL;
		if (end != NULL)
		{
			*text = lines->data;
			*len = (size_t) (end - lines->data);
			*offset = lines->at;
			lines->searched = 0;
			lines->line = *len + 1;
			if (strspn(lines->data, " \t\r") >= *len)
				continue;
			return 1;
		}
		lines->searched = lines->len;
		if (lines->len > LINE_MAX_BYTES)
		{
			errno = EFBIG;
			return -1;
		}
		if (lines->room - lines->len < READ_BYTES + 1)
		{
			lines->room = Max(lines->room * 2, 2 * READ_BYTES);
			lines->data = pg_realloc(lines->data, lines->room);
		}
		n = pread(lines->fd, lines->data + lines->len, READ_BYTES, lines->at + (int64) lines->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return (int) n;
		lines->len += (size_t) n;
		lines->data[lines->len] = '\0';
	}
}

/*
 * Lines
 */

static void
parser_init(LineParser *p)
{
	static const char *const names[SLOTS] = {"key", "value", "ts", "headers"};

	gc_arena_init(&p->arena);
	gc_arena_init(&p->paths);
	p->scanner = pg_malloc0(sizeof(GcJsonScanner));
	gc_json_scanner_init(p->scanner, &p->arena);
	p->root = gc_path_root(&p->paths);
	for (int i = 0; i < SLOTS; i++)
		gc_path_member(&p->paths, p->root, names[i], strlen(names[i]))->slot = i;
	gc_path_finish(&p->paths, p->root);
}

static void
take_headers(LineParser *p, const GcJsonValue *object, GcDecodeInput *in)
{
	GcJsonIter	iter;
	GcJsonValue name;
	GcJsonValue value;

	gc_json_iter_begin(&iter, p->scanner, object->raw, object->raw_len);
	while (gc_json_iter_next(&iter, &name, &value))
	{
		GcHeader   *header;

		if (in->nheaders == p->headers_room)
		{
			p->headers_room = Max(p->headers_room * 2, 16);
			p->headers = pg_realloc(p->headers, p->headers_room * sizeof(GcHeader));
		}
		header = &p->headers[in->nheaders++];
		header->name = gc_arena_text(&p->arena, name.text, name.text_len);
		header->value = value.type == GC_JSON_NULL ? NULL : gc_arena_text(&p->arena, value.text, value.text_len);
		header->value_len = value.type == GC_JSON_NULL ? 0 : value.text_len;
	}
	in->headers = p->headers;
}

/* NULL, or why the line is not a record. */
static const char *
take_fields(LineParser *p, const char *line, size_t len, GcDecodeInput *in)
{
	GcJsonValue slots[SLOTS];
	GcDecodeError err;
	GcTimeRule	rule = {.unit = GC_UNIT_AUTO};
	const GcJsonValue *ts = &slots[SLOT_TS];
	bool		range;

	if (!gc_json_check_text("line", line, len, &err))
		return "It is not valid UTF-8";
	if (!gc_json_scan(p->scanner, "line", line, len, p->root, slots, SLOTS, false, &err))
		return "It is not JSON";
	if (slots[SLOT_VALUE].type == GC_JSON_ABSENT)	/* or one that is misspelt would be a delete */
		return "It has no \"value\", which is null in a tombstone";
	if (ts->type == GC_JSON_NUMBER)
	{
		if (ts->text_len > 15 || strspn(ts->text, "-0123456789") < ts->text_len)
			return "\"ts\" is not a count of milliseconds";
		in->timestamp_us = (int64) strtoll(ts->text, NULL, 10) * 1000;
	}
	else if (ts->type == GC_JSON_STRING)
	{
		rule.unit = GC_UNIT_ISO8601;
		if (gc_time_parse(ts->text, ts->text_len, &rule, GC_KIND_TIMESTAMPTZ, &in->timestamp_us, &range) != NULL)
			return "\"ts\" is not a time";
	}
	else if (ts->type != GC_JSON_ABSENT && ts->type != GC_JSON_NULL)
		return "\"ts\" is not a time";
	if (slots[SLOT_KEY].type > GC_JSON_NULL)
	{
		in->key = slots[SLOT_KEY].text;
		in->key_len = slots[SLOT_KEY].text_len;
	}
	if (slots[SLOT_VALUE].type > GC_JSON_NULL)
	{
		in->value = slots[SLOT_VALUE].raw;
		in->value_len = slots[SLOT_VALUE].raw_len;
	}
	if (slots[SLOT_HEADERS].type == GC_JSON_OBJECT)
		take_headers(p, &slots[SLOT_HEADERS], in);
	else if (slots[SLOT_HEADERS].type > GC_JSON_NULL)
		return "\"headers\" is not an object";
	return NULL;
}

static void
parse_line(LineParser *p, const char *line, size_t len, GcMessage *message)
{
	memset(message, 0, sizeof(*message));
	gc_arena_reset(&p->arena);
	message->in.timestamp_us = GC_NO_TIMESTAMP;
	message->malformed = take_fields(p, line, len, &message->in);
	if (message->malformed)
	{
		memset(&message->in, 0, sizeof(message->in));
		message->in.timestamp_us = GC_NO_TIMESTAMP;
		message->in.value = line;
		message->in.value_len = len;
	}
}

/*
 * What the loop calls
 */

static bool
file_start(const GcSettings *settings, char *text, size_t size)
{
	const char *name = gc_setting(settings, "directory");
	struct stat st;

	for (int i = 0; i < settings->noptions; i++)
		if (strcmp(settings->options[i].name, "directory") != 0)
		{
			snprintf(text, size, "option \"%.64s\" is not one of servers of TYPE 'file'", settings->options[i].name);
			return false;
		}
	if (name == NULL || name[0] != '/')
	{
		snprintf(text, size, "option \"directory\" must be an absolute path");
		return false;
	}
	directory = pg_strdup(name);
	if (stat(directory, &st) != 0 || !S_ISDIR(st.st_mode))
	{
		snprintf(text, size, "option \"directory\" does not name a directory that can be read");
		return false;
	}
	parser_init(&parser);
	parser_init(&probe_parser);
	return true;
}

/*
 * Where to begin for an offset: a line's own, or that plus one, which is how a position behind a record is told
 * before the next one has come: the line behind it. -1: in the middle of a line.
 */
static int64
begin_at(int fd, int64 offset)
{
	char		before;
	char		bytes[4096];
	ssize_t		n;

	if (offset == 0)
		return 0;
	if (pread(fd, &before, 1, offset - 1) != 1)
		return -1;
	if (before == '\n')
		return offset;
	if (offset > 1 && (pread(fd, &before, 1, offset - 2) != 1 || before != '\n'))
		return -1;
	while ((n = pread(fd, bytes, sizeof(bytes), offset)) > 0)
	{
		const char *end = memchr(bytes, '\n', (size_t) n);

		if (end != NULL)
			return offset + (end - bytes) + 1;
		offset += n;
	}
	return -1;
}

static void
file_assign(GcPart *part)
{
	FilePart   *file = pg_malloc0(sizeof(FilePart));
	int			fd = open_partition(part->subscription->topic, part->partition);
	int			err = errno;
	int64		end = fd < 0 ? -1 : end_of_lines(fd);
	int64		begin = fd < 0 || part->taken > end ? part->taken : begin_at(fd, part->taken);

	part->state = file;
	part->assigned = true;
	reading = pg_realloc(reading, (nreading + 1) * sizeof(GcPart *));
	reading[nreading++] = part;
	lines_begin(&file->lines, fd, Max(begin, part->taken));
	if (fd < 0)
		gc_part_trouble(part, trouble_of(err) == GC_TROUBLE_TRANSIENT ? GC_TROUBLE_UNREADABLE : trouble_of(err),
						part->taken, strerror(err));
	else if (part->taken > end)
		gc_part_trouble(part, GC_TROUBLE_OUT_OF_RANGE, part->taken, "offset is behind the end of the file");
	else if (begin < 0)
		gc_part_trouble(part, GC_TROUBLE_OUT_OF_RANGE, part->taken, "no line of the file begins at this offset");
}

static void
file_unassign(GcPart *part)
{
	FilePart   *file = part->state;

	for (int i = 0; i < nreading; i++)
		if (reading[i] == part)
			reading[i--] = reading[--nreading];
	lines_end(&file->lines);
	pg_free(file);
	part->state = NULL;
	part->assigned = false;
}

static void
file_pause(GcPart *part, bool pause)
{
}

static int
file_wait_fd(void)
{
	return -1;
}

static int
file_wait_ms(void)
{
	return nreading > 0 ? LOOK_MS : 1000;
}

/* The end has been met: is the file still the one that is being read? */
static void
at_end(GcPart *part)
{
	FilePart   *file = part->state;
	struct stat now;
	struct stat then;
	int			fd = open_partition(part->subscription->topic, part->partition);
	int			err = errno;

	file->look_at = gc_now() + LOOK_MS;
	if (fd < 0)
	{
		gc_part_trouble(part, trouble_of(err), part->taken, strerror(err));
		return;
	}
	if (fstat(fd, &now) != 0 || fstat(file->lines.fd, &then) != 0)
	{
		close(fd);
		gc_part_trouble(part, GC_TROUBLE_TRANSIENT, part->taken, strerror(errno));
		return;
	}
	if (now.st_dev != then.st_dev || now.st_ino != then.st_ino)
	{
		/* another file of that name: what is below the offset is taken to be the same */
		close(file->lines.fd);
		lines_begin(&file->lines, fd, file->lines.at);
		file->look_at = 0;
	}
	else
		close(fd);
	if (now.st_size < file->lines.at + (int64) file->lines.len)
		gc_part_trouble(part, GC_TROUBLE_OUT_OF_RANGE, part->taken, "file is shorter than it was");
	else
		gc_part_end(part, file->lines.at);
}

static bool
file_take(GcTaken *taken)
{
	for (int i = 0; i < nreading; i++)
	{
		GcPart	   *part = reading[turn++ % nreading];
		FilePart   *file = part->state;
		const char *line;
		size_t		len;
		int			got;

		if (part->paused || file->look_at > gc_now())
			continue;
		got = lines_next(&file->lines, &line, &len, &taken->offset);
		if (got > 0)
		{
			taken->part = part;
			taken->after = taken->offset + (int64) len + 1;
			taken->bytes = len + sizeof(GcTaken);
			taken->owner = pnstrdup(line, len);
			return true;
		}
		if (got == 0)
			at_end(part);
		else
			gc_part_trouble(part, GC_TROUBLE_UNREADABLE, file->lines.at,
							errno == EFBIG ? "line is too long" : strerror(errno));

		/* trouble may have taken the partition out of the list */
		if (nreading == 0)
			break;
	}
	return false;
}

static void
file_fill(GcTaken *taken, GcMessage *message)
{
	parse_line(&parser, taken->owner, (size_t) (taken->after - taken->offset - 1), message);
}

static void
file_release(GcTaken *taken)
{
	pg_free(taken->owner);
}

static int64
file_end(GcPart *part)
{
	FilePart   *file = part->state;

	return file == NULL ? -1 : end_of_lines(file->lines.fd);
}

static bool
file_commit(GcPart *parts)
{
	return true;
}

static void
file_stop(void)
{
}

/*
 * The probe's
 */

static void
list_partitions(GcJob *job, const char *topic)
{
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *entry;

	if (!plain_name(topic) || snprintf(path, sizeof(path), "%s/%s", directory, topic) >= (int) sizeof(path) ||
		(dir = opendir(path)) == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
	{
		int			partition;
		int			chars = 0;
		int			fd;

		if (sscanf(entry->d_name, "%9d.jsonl%n", &partition, &chars) != 1 || chars == 0 ||
			entry->d_name[chars] != '\0' || partition < 0)
			continue;
		fd = open_partition(topic, partition);
		if (fd < 0)
			continue;
		gc_answer_row(job);
		gc_answer_text(job, topic, strlen(topic));
		gc_answer_number(job, partition);
		gc_answer_number(job, 0);
		gc_answer_number(job, end_of_lines(fd));
		close(fd);
	}
	closedir(dir);
}

static void
list_topics(GcJob *job)
{
	DIR		   *dir;
	struct dirent *entry;

	gc_answer_begin(job, 4);
	if (job->topic != NULL)
	{
		list_partitions(job, job->topic);
		if (job->rows == 0)
			gc_answer_fail(job, GC_TROUBLE_NO_TOPIC, "no such topic");
		return;
	}
	dir = opendir(directory);
	if (dir == NULL)
	{
		gc_answer_fail(job, trouble_of(errno), strerror(errno));
		return;
	}
	while ((entry = readdir(dir)) != NULL)
		list_partitions(job, entry->d_name);
	closedir(dir);
}

/* The first record of lines that is not before the time, or -1. -2 = out of time. */
static int64
find_time(GcJob *job, LineReader *lines)
{
	const char *line;
	size_t		len;
	int64		offset;
	GcMessage	message;

	while (lines_next(lines, &line, &len, &offset) > 0)
	{
		parse_line(&probe_parser, line, len, &message);
		if (message.in.timestamp_us != GC_NO_TIMESTAMP && message.in.timestamp_us >= job->number)
			return offset;
		if (gc_job_left(job) == 0)
			return -2;
	}
	return -1;
}

/* Where the last count lines begin. */
static int64
find_last(int fd, int64 end, int64 count)
{
	char		chunk[8192];
	int64		at = end;

	while (at > 0)
	{
		size_t		want = (size_t) Min(at, (int64) sizeof(chunk));

		if (pread(fd, chunk, want, at - (int64) want) != (ssize_t) want)
			return end;
		for (size_t i = want; i > 0; i--)
			if (chunk[i - 1] == '\n' && at - (int64) (want - i) != end && --count <= 0)
				return at - (int64) (want - i);
		at -= (int64) want;
	}
	return 0;
}

static void
answer_lines(GcJob *job, LineReader *lines, int64 count)
{
	const char *line;
	size_t		len;
	int64		offset;
	GcMessage	message;

	while (count-- > 0 && job->answer.len < GC_PEEK_BYTES && lines_next(lines, &line, &len, &offset) > 0)
	{
		parse_line(&probe_parser, line, len, &message);
		gc_answer_record(job, &message, offset);
	}
}

static void
ask_partition(GcJob *job)
{
	LineReader	lines = {.fd = -1};
	int			fd = open_partition(job->topic, job->partition);
	int64		end;
	int64		offset;

	if (fd < 0)
	{
		gc_answer_fail(job, trouble_of(errno), strerror(errno));
		return;
	}
	end = end_of_lines(fd);
	lines_begin(&lines, fd, 0);
	switch (job->what)
	{
		case GC_QUERY_OFFSET:
			offset = job->number == -1 ? end : job->number < 0 ? 0 : find_time(job, &lines);
			if (offset == -2)
			{
				gc_answer_fail(job, GC_TROUBLE_TRANSIENT, "timed out");
				break;
			}
			gc_answer_row(job);
			gc_answer_number(job, offset < 0 ? end : offset);
			break;
		case GC_QUERY_RECORD:
			offset = Max(job->number, 0);
			if (offset > 0)
			{
				/* from inside a line to the next one */
				const char *line;
				size_t		len;

				lines_begin(&lines, fd, offset - 1);
				if (lines_next(&lines, &line, &len, &offset) <= 0)
					break;
				lines_begin(&lines, fd, offset >= job->number ? offset : offset + (int64) len + 1);
			}
			answer_lines(job, &lines, 1);
			break;
		default:
			lines_begin(&lines, fd, find_last(fd, end, Min(job->number, GC_PEEK_ROWS)));
			answer_lines(job, &lines, Min(job->number, GC_PEEK_ROWS));
	}
	lines_end(&lines);
}

static void
file_query(GcJob *job)
{
	switch (job->what)
	{
		case GC_QUERY_TOPICS:
			list_topics(job);
			return;
		case GC_QUERY_CLUSTER:
			gc_answer_begin(job, 3);
			gc_answer_row(job);
			gc_answer_text(job, "file", 4);
			gc_answer_text(job, directory, strlen(directory));
			gc_answer_text(job, "t", 1);
			return;
		case GC_QUERY_DELETES:
			gc_answer_begin(job, 1);
			return;
		case GC_QUERY_OFFSET:
		case GC_QUERY_RECORD:
		case GC_QUERY_PEEK:
			break;
		default:
			gc_answer_fail(job, GC_TROUBLE_NONE, "unknown question");
			return;
	}
	gc_answer_begin(job, job->what == GC_QUERY_OFFSET ? 1 : job->what == GC_QUERY_RECORD ? 3 : 5);
	if (job->topic == NULL)
		gc_answer_fail(job, GC_TROUBLE_NO_TOPIC, "no such topic");
	else if (job->partition >= 0)
		ask_partition(job);
	else
	{
		/* all of them: numbered from 0, as Kafka's are */
		for (job->partition = 0; !job->failed; job->partition++)
		{
			int			fd = open_partition(job->topic, job->partition);

			if (fd < 0)
				break;
			close(fd);
			ask_partition(job);
		}
		if (job->partition == 0)
			gc_answer_fail(job, GC_TROUBLE_NO_TOPIC, "no such topic");
	}
}

static void
file_range(GcJob *job)
{
	int			fd = open_partition(job->topic, job->partition);

	if (fd < 0)
		return;
	job->low = 0;
	job->high = end_of_lines(fd);
	close(fd);
}

static void
file_check(GcJob *job)
{
	job->trouble = GC_TROUBLE_NONE;
}

static void
file_ping(GcJob *job)
{
	if (access(directory, R_OK | X_OK) == 0)
		job->state = GC_SERVER_UP;
	else
	{
		job->state = GC_SERVER_DOWN;
		strlcpy(job->text, strerror(errno), sizeof(job->text));
	}
}

const GcSource gc_file_source = {
	.kind = "file",
	.start = file_start,
	.assign = file_assign,
	.unassign = file_unassign,
	.pause = file_pause,
	.wait_fd = file_wait_fd,
	.wait_ms = file_wait_ms,
	.take = file_take,
	.fill = file_fill,
	.release = file_release,
	.end = file_end,
	.commit = file_commit,
	.stop = file_stop,
	.query = file_query,
	.range = file_range,
	.check = file_check,
	.ping = file_ping,
};
