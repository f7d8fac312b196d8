/*
 * ingest_link.c: what the ingest worker and its reader say to each other.
 *
 * Frames of records become items of the changelogs that they are for, positions and troubles change what
 * is known of partitions. Nothing is applied here. Questions come in two kinds: gc_ingest_ask() waits for
 * the answer and is for loading only; gc_ingest_ask_later() does not, and is for looking after
 * a server that may have fallen silent.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "common/time_text.h"
#include "compat.h"
#include "guest_context.h"
#include "ingest.h"

#define ANSWER_MS			10000
#define SAY_AGAIN_MS		60000	/* what the reader logs */
#define LINES_AT_ONCE		3
#define TRIES				3	/* at a range that looks right and is refused */

/* Waits for the reader, or for what else there is to do, so many milliseconds. */
void
gc_ingest_wait(long milliseconds)
{
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | WL_SOCKET_READABLE;

	if (gc_work.reader->out.len > 0)
		events |= WL_SOCKET_WRITEABLE;
	gc_ingest_alive(false);
	(void) WaitLatchOrSocket(MyLatch, events, gc_work.reader->socket, milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * What the reader's library has to say, which is the same again and again while a broker is down: a few lines, then
 * one a minute until it has been silent for a minute.
 */
static void
say_log(GcFrame *frame)
{
	static TimestampTz heard = 0;
	static TimestampTz said = 0;
	static int	lines = 0;
	static int	left_out = 0;
	size_t		len;
	uint8		level = gc_frame_get_u8(frame);
	const char *text = gc_frame_get_text(frame, &len);
	TimestampTz now = GetCurrentTimestamp();

	if (text == NULL)
		return;
	if (level > 3)
	{
		ereport(DEBUG1, (errmsg("guest_context reader: %s", gc_reader_text(text, len))));
		return;
	}
	if (TimestampDifferenceExceeds(heard, now, SAY_AGAIN_MS))
		lines = left_out = 0;
	heard = now;
	if (++lines > LINES_AT_ONCE && !TimestampDifferenceExceeds(said, now, SAY_AGAIN_MS))
	{
		left_out++;
		return;
	}
	ereport(LOG,
			(errmsg("guest_context reader: %s", gc_reader_text(text, len)),
			 left_out > 0 ? errdetail("%d other lines of it were left out.", left_out) : 0));
	said = now;
	left_out = 0;
}

char *
gc_frame_string(GcFrame *frame)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	return text == NULL ? NULL : gc_reader_text(text, len);
}

static void
broken_frame(const GcFrame *frame)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("the reader has sent a frame of type \"%c\" that cannot be read", frame->type)));
}

static void
server_state(GcFrame *frame)
{
	uint8		state = gc_frame_get_u8(frame);
	char	   *text = gc_frame_string(frame);
	MemoryContext caller = MemoryContextSwitchTo(gc_work.load_context);

	if (gc_work.server_problem != NULL)
		pfree(gc_work.server_problem);
	gc_work.server_problem = NULL;
	gc_work.refused_at = state == GC_SERVER_AUTHENTICATION ? GetCurrentTimestamp() : 0;
	if (state != GC_SERVER_UP)
		gc_work.server_problem = psprintf("%s: %s", state == GC_SERVER_AUTHENTICATION && text && strstr(text, "SSL handshake") ?
										  "no secure connection to the server" :
										  state == GC_SERVER_AUTHENTICATION ? "the server refuses the login" :
										  state == GC_SERVER_FAILED ? "the reader cannot go on" :
										  "no broker can be reached", text ? text : "");
	MemoryContextSwitchTo(caller);
}

static uint32 last_query = 0;

uint32
gc_reader_ask(GcReader *reader, GcQuery what, uint32 milliseconds, const char *topic, int32 partition, int64 number)
{
	GcFrameBuffer *out = &reader->out;

	if (++last_query == 0)
		last_query = 1;
	gc_frame_begin(out, GC_FRAME_QUERY);
	gc_frame_put_u32(out, last_query);
	gc_frame_put_u8(out, what);
	gc_frame_put_u32(out, milliseconds);
	gc_frame_put_string(out, topic);
	gc_frame_put_u32(out, partition);
	gc_frame_put_u64(out, number);
	gc_frame_finish(out);
	return last_query;
}

uint32
gc_ingest_ask_later(GcQuery what, const char *topic, int32 partition, int64 number)
{
	return gc_reader_ask(gc_work.reader, what, ANSWER_MS, topic, partition, number);
}

/* Past ok, text and trouble of an answer. */
static bool
read_answer(GcFrame *answer, char **problem)
{
	bool		ok = gc_frame_get_u8(answer);
	char	   *text = gc_frame_string(answer);

	(void) gc_frame_get_u8(answer);
	*problem = text ? text : pstrdup("unknown");
	return ok;
}

bool
gc_ingest_ask(GcQuery what, const char *topic, int32 partition, int64 number, GcFrame *answer, char **problem)
{
	uint32		query = gc_ingest_ask_later(what, topic, partition, number);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ANSWER_MS + 1000);

	for (;;)
	{
		gc_reader_pump(gc_work.reader);
		while (gc_reader_next(gc_work.reader, answer))
		{
			GcFrame		other = *answer;

			if (answer->type == GC_FRAME_ANSWER && gc_frame_get_u32(answer) == query)
				return read_answer(answer, problem);
			gc_ingest_take(&other);
		}
		if (gc_work.reader->closed)
			*problem = psprintf("the reader %s", gc_reader_death(gc_work.reader));
		else if (GetCurrentTimestamp() > until)
			*problem = pstrdup("no answer in time");
		else
		{
			gc_ingest_wait(100);
			if (gc_is_background_worker())
				gc_ingest_yield();
			continue;
		}
		return false;
	}
}

int64
gc_string_number(const char *text)
{
	return text == NULL ? -1 : strtoll(text, NULL, 10);
}

/* What the reader says of a topic's partitions: arrays by partition of low and high. */
int
gc_answer_partitions(GcFrame *answer, int64 **lows, int64 **highs)
{
	uint32		nrows = gc_frame_get_u32(answer);
	uint32		ncolumns = gc_frame_get_u32(answer);
	int			npartitions = 0;

	/* each value has its length at least, so there is no more memory asked for than has come */
	if (answer->bad || (nrows > 0 && ncolumns != 4) || nrows > (answer->end - answer->at) / (4 * sizeof(uint32)))
		broken_frame(answer);
	*lows = palloc(sizeof(int64) * Max(nrows, 1));
	*highs = palloc(sizeof(int64) * Max(nrows, 1));
	for (uint32 i = 0; i < nrows; i++)
		(*lows)[i] = (*highs)[i] = -1;
	for (uint32 i = 0; i < nrows; i++)
	{
		char	   *columns[4];

		for (int j = 0; j < lengthof(columns); j++)
			columns[j] = gc_frame_string(answer);
		if (gc_string_number(columns[1]) >= 0 && gc_string_number(columns[1]) < nrows)
		{
			int			partition = gc_string_number(columns[1]);

			(*lows)[partition] = gc_string_number(columns[2]);
			(*highs)[partition] = gc_string_number(columns[3]);
			npartitions = Max(npartitions, partition + 1);
		}
	}
	return npartitions;
}

void
gc_partition_say(const GcPartition *partition, GcFrameType type, uint64 number)
{
	GcFrameBuffer *out = &gc_work.reader->out;

	gc_frame_begin(out, type);
	gc_frame_put_u32(out, partition->topic->subscription);
	gc_frame_put_u32(out, partition->partition);
	gc_frame_put_u32(out, partition->epoch);
	gc_frame_put_u64(out, number);
	gc_frame_finish(out);
}

/*
 * Records
 */

static GcTopic *
topic_by_number(uint32 subscription)
{
	return subscription >= 1 && subscription <= list_length(gc_work.topics) ? list_nth(gc_work.topics, subscription - 1) : NULL;
}

/* The partition that a frame is about; NULL when it is stale. Nothing is to come of one that is not assigned. */
static GcPartition *
partition_of(GcFrame *frame, GcTopic **topic)
{
	uint32		subscription = gc_frame_get_u32(frame);
	int32		partition = gc_frame_get_u32(frame);
	uint32		of_epoch = gc_frame_get_u32(frame);

	*topic = topic_by_number(subscription);
	if (*topic == NULL || partition < 0 || partition >= (*topic)->npartitions ||
		of_epoch == 0 || (*topic)->partitions[partition].epoch != of_epoch)
		return NULL;
	return &(*topic)->partitions[partition];
}

static void
keep_error(GcFrame *frame, char *to, size_t room)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	to[0] = '\0';
	if (text == NULL)
		return;
	len = gc_utf8_clip(text, len, room - 1);
	memcpy(to, text, len);
	to[len] = '\0';
	if (!pg_verify_mbstr(PG_UTF8, to, strlen(to), true))
		for (; *to != '\0'; to++)
			if (IS_HIGHBIT_SET(*to))
				*to = '?';
}

/* A time that a timestamp can hold, or none. */
static bool
is_time(int64 time_us)
{
	return time_us == GC_NO_TIMESTAMP ||
		(time_us >= MIN_TIMESTAMP + GC_UNIX_EPOCH_US && IS_VALID_TIMESTAMP(time_us - GC_UNIX_EPOCH_US));
}

static GcIngest *
ingest_of(GcTopic *topic, int32 changelog_id)
{
	ListCell   *lc;

	foreach(lc, topic->ingests)
		if (((GcIngest *) lfirst(lc))->changelog->changelog_id == changelog_id)
			return lfirst(lc);
	return NULL;
}

static GcItem *
new_item(GcIngest *ingest)
{
	if (ingest->nitems == ingest->room)
	{
		ingest->room = Max(64, ingest->room * 2);
		ingest->items = ingest->items == NULL ?
			MemoryContextAllocHuge(ingest->pending, sizeof(GcItem) * ingest->room) :
			repalloc_huge(ingest->items, sizeof(GcItem) * ingest->room);
	}
	memset(&ingest->items[ingest->nitems], 0, sizeof(GcItem));
	return &ingest->items[ingest->nitems];
}

/* Past what the decoder made of a record. */
static void
skip_decoding(GcFrame *frame, GcDecodeStatus status)
{
	size_t		len;

	if (status == GC_DECODE_UPSERT || status == GC_DECODE_TOMBSTONE)
	{
		uint32		ncolumns;

		(void) gc_frame_get_u64(frame);
		ncolumns = gc_frame_get_u32(frame);
		for (uint32 i = 0; i < ncolumns && !frame->bad; i++)
			if (gc_frame_get_u8(frame) == GC_FIELD_TEXT)
				(void) gc_frame_get_text(frame, &len);
	}
	else
		for (int i = 0; i < 4; i++)
			(void) gc_frame_get_text(frame, &len);
}

/* The same into the item, whose fields point into the frame. */
static void
read_decoding(GcFrame *frame, MemoryContext context, uint32 ncolumns, GcItem *item)
{
	if (item->status == GC_DECODE_UPSERT || item->status == GC_DECODE_TOMBSTONE)
	{
		item->version_us = gc_frame_get_u64(frame);
		if (!gc_time_in_range(item->version_us) || gc_frame_get_u32(frame) != ncolumns)
			frame->bad = true;
		for (uint32 i = 0; i < ncolumns && !frame->bad; i++)
		{
			GcField    *field = &item->fields[i];

			field->state = gc_frame_get_u8(frame);
			field->text = NULL;
			if (field->state == GC_FIELD_TEXT)
				field->text = (char *) gc_frame_get_text(frame, &field->len);
			if (field->state > GC_FIELD_TEXT || (field->state == GC_FIELD_TEXT && field->text == NULL))
				frame->bad = true;
		}
	}
	else if (item->status == GC_DECODE_BAD || item->status == GC_DECODE_HALT)
	{
		GcDecodeError *error = MemoryContextAllocZero(context, sizeof(GcDecodeError));

		keep_error(frame, error->sqlstate, sizeof(error->sqlstate));
		keep_error(frame, error->message, sizeof(error->message));
		keep_error(frame, error->detail, sizeof(error->detail));
		keep_error(frame, error->hint, sizeof(error->hint));
		item->error = error;
	}
	else
		frame->bad = true;
}

/* Past the raw record; returns the CRC of key and value, as the reader counts it. */
static uint32
skip_raw(GcFrame *frame)
{
	size_t		len;
	uint32		nheaders;
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	for (int i = 0; i < 2; i++)
	{
		const char *text = gc_frame_get_text(frame, &len);

		if (text != NULL)
			COMP_CRC32C(crc, text, len);
	}
	FIN_CRC32C(crc);
	nheaders = gc_frame_get_u32(frame);
	for (uint32 i = 0; i < nheaders && !frame->bad; i++)
	{
		if (gc_frame_get_text(frame, &len) == NULL)
			frame->bad = true;
		(void) gc_frame_get_text(frame, &len);
	}
	return crc;
}

/* Something has come of a partition. */
static void
heard_of(GcPartition *partition, int64 reached)
{
	partition->reached = Max(partition->reached, reached);
	partition->behind_since = 0;
	partition->assigned_again = false;
	if (partition->problem != NULL)
		pfree(partition->problem);
	partition->problem = NULL;
}

/*
 * A record's bytes are kept in one piece, from the raw record to the end of the changelog's decoding; fields, key
 * and value point into it.
 */
static void
keep_record(GcIngest *ingest, GcItem *item, const GcFrame *raw, GcFrame *decoding, const char *end)
{
	uint32		ncolumns = ingest->spec->ncolumns;
	Size		fields = MAXALIGN(sizeof(GcField) * ncolumns);
	char	   *block = MemoryContextAllocHuge(ingest->pending, fields + (end - raw->at) + 1);

	item->fields = (GcField *) block;
	block += fields;
	memcpy(block, raw->at, end - raw->at);
	item->raw = (GcFrame) {.at = block, .end = block + (end - raw->at)};
	decoding->at = block + (decoding->at - raw->at);
	decoding->end = item->raw.end;
	read_decoding(decoding, ingest->pending, ncolumns, item);
	decoding->bad |= decoding->at != decoding->end;
	if (decoding->bad || item->error != NULL)
		return;
	/*
	 * All is read, so there is room for the NUL that input functions need. The decoder has seen to the encoding; but what is
	 * not the server's must not get into a table, whoever sends it, nor a NUL that ends a value early.
	 */
	for (uint32 i = 0; i < ncolumns; i++)
	{
		GcField    *field = &item->fields[i];

		if (field->text == NULL)
			continue;
		field->text[field->len] = '\0';
		decoding->bad |= !pg_verify_mbstr(PG_UTF8, field->text, field->len, true);
	}
}

static void
take_record(GcFrame *frame)
{
	uint32		bytes = frame->end - frame->at;
	GcTopic    *topic;
	GcPartition *partition = partition_of(frame, &topic);
	int64		offset;
	int64		time_us;
	uint32		crc;
	GcFrame		raw;
	uint32		ndecodings;
	GcCredit   *owed;
	ListCell   *lc;
	int			index;

	if (partition == NULL)
		return;
	index = partition->partition;
	offset = gc_frame_get_u64(frame);
	time_us = gc_frame_get_u64(frame);
	if (offset < 0 || offset == PG_INT64_MAX || !is_time(time_us))
		broken_frame(frame);
	raw = *frame;
	crc = skip_raw(frame);
	ndecodings = gc_frame_get_u32(frame);
	owed = MemoryContextAlloc(topic->context, sizeof(GcCredit));
	owed->partition = partition;
	owed->bytes = bytes;
	owed->users = 1;			/* this function */
	for (uint32 i = 0; i < ndecodings && !frame->bad; i++)
	{
		GcIngest   *ingest = ingest_of(topic, gc_frame_get_u32(frame));
		GcDecodeStatus status = gc_frame_get_u8(frame);
		GcFrame		decoding = *frame;
		GcItem	   *item;

		skip_decoding(frame, status);
		if (frame->bad || ingest == NULL || ingest->stopped || offset < ingest->progress[index].reached)
			continue;			/* it has it already */
		item = new_item(ingest);
		item->status = status;
		keep_record(ingest, item, &raw, &decoding, frame->at);
		if (decoding.bad)
			broken_frame(frame);
		item->partition = index;
		item->offset = offset;
		item->time_us = time_us;
		item->crc = crc;
		item->credit = owed;
		owed->users++;
		ingest->nitems++;
		ingest->bytes += bytes;
		/* one that waits is bounded by its credit */
		if (ingest->failures == 0 &&
			(ingest->nitems >= gc_batch_rows || ingest->bytes >= (Size) gc_batch_bytes * 1024 / 2))
			gc_work.full = true;
	}
	if (!gc_frame_end(frame))
		broken_frame(frame);
	heard_of(partition, offset + 1);
	gc_anchor_set(&partition->anchor, offset, time_us, crc);
	if (partition->proven.offset < 0)
		partition->proven = partition->anchor;
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (ingest->stopped || offset < ingest->progress[index].reached)
			continue;
		ingest->progress[index].reached = offset + 1;
		ingest->progress[index].anchor = partition->anchor;
		if (time_us != GC_NO_TIMESTAMP)
			ingest->progress[index].record_time = time_us - GC_UNIX_EPOCH_US;
		ingest->moved = true;
	}
	if (--owed->users == 0)
	{
		partition->owed += owed->bytes;
		pfree(owed);
	}
}

/* The reader has read so far, records or not. */
static void
take_position(GcFrame *frame)
{
	GcTopic    *topic;
	GcPartition *partition = partition_of(frame, &topic);
	int64		position;
	int64		high;
	uint8		flags;
	ListCell   *lc;

	if (partition == NULL)
		return;
	position = gc_frame_get_u64(frame);
	high = gc_frame_get_u64(frame);
	flags = gc_frame_get_u8(frame);
	if (!gc_frame_end(frame) || position < 0)
		broken_frame(frame);
	if (high >= 0)
		partition->high = high;
	heard_of(partition, position);
	if ((flags & GC_POSITION_OPEN) == 0)
		partition->open_since = 0;
	else if (partition->open_since == 0)
		partition->open_since = GetCurrentTimestamp();
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);
		GcProgress *progress = &ingest->progress[partition->partition];

		if (ingest->stopped)
			continue;
		if (position <= progress->reached)
			continue;
		progress->reached = position;
		ingest->moved = true;
	}
}

/* The last trouble that made all be loaded anew. */
static struct
{
	char		topic[256];
	int32		partition;
	int64		offset;
	int			times;
}			again;

static void
take_trouble(GcFrame *frame)
{
	uint32		subscription = gc_frame_get_u32(frame);
	int32		partition = gc_frame_get_u32(frame);
	uint32		of_epoch = gc_frame_get_u32(frame);
	GcTrouble	trouble = gc_frame_get_u8(frame);
	int64		offset = gc_frame_get_u64(frame);
	char	   *text;
	GcTopic    *topic = topic_by_number(subscription);

	(void) gc_frame_get_u64(frame); /* low and high: they are asked for anew */
	(void) gc_frame_get_u64(frame);
	text = gc_frame_string(frame);
	if (!gc_frame_end(frame))
		broken_frame(frame);
	if (topic == NULL || (partition >= 0 && (partition >= topic->npartitions || topic->partitions[partition].epoch != of_epoch)))
		return;
	if (partition >= 0)
	{
		GcPartition *of = &topic->partitions[partition];

		if (of->problem != NULL)
			pfree(of->problem);
		of->problem = MemoryContextStrdup(topic->context, text ? text : "unknown trouble");
	}
	if (trouble == GC_TROUBLE_TRANSIENT)
		return;
	/* what is wrong with a range or a topic is found by loading, with each changelog's own position */
	if ((trouble == GC_TROUBLE_UNREADABLE || trouble == GC_TROUBLE_TOO_LARGE) && partition >= 0)
	{
		gc_unreadable_found(&topic->partitions[partition], offset, text ? text : "unknown trouble");
		return;
	}
	if (gc_work.reload)
		return;
	gc_work.reload = true;

	/* loading finds what is wrong; where it finds nothing, again and again, there is no way on */
	if (strcmp(again.topic, topic->name) == 0 && again.partition == partition && again.offset == offset)
		again.times++;
	else
		again.times = 1;
	strlcpy(again.topic, topic->name, sizeof(again.topic));
	again.partition = partition;
	again.offset = offset;
	gc_work.reload_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 250 * (INT64CONST(1) << Min(again.times, 5)));
	if (again.times <= TRIES || trouble != GC_TROUBLE_OUT_OF_RANGE)
		return;
	if (partition < 0)
		return;
	gc_work.reload = false;
	gc_unreadable_found(&topic->partitions[partition], offset, text ? text : "unknown trouble");
}

/* To gc_ingest_ask_later, or one that came too late. */
static void
take_answer(GcFrame *frame)
{
	uint32		query = gc_frame_get_u32(frame);
	char	   *problem;
	bool		ok = read_answer(frame, &problem);

	gc_watch_answer(query, ok ? frame : NULL, problem);
}

void
gc_ingest_take(GcFrame *frame)
{
	if (frame->type == GC_FRAME_RECORD || frame->type == GC_FRAME_POSITION)
		gc_work.heard_at = GetCurrentTimestamp();
	switch (frame->type)
	{
		case GC_FRAME_RECORD:
			take_record(frame);
			break;
		case GC_FRAME_POSITION:
			take_position(frame);
			break;
		case GC_FRAME_TROUBLE:
			take_trouble(frame);
			break;
		case GC_FRAME_SERVER:
			server_state(frame);
			break;
		case GC_FRAME_LOG:
			say_log(frame);
			break;
		case GC_FRAME_HELLO:
			if (gc_frame_get_u32(frame) != GC_PROTOCOL)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("the reader program is of another version than the library"),
						 errhint("Restart the server after an upgrade.")));
			break;
		case GC_FRAME_ANSWER:
			take_answer(frame);
			break;
		default:				/* what has no meaning here */
			break;
	}
}

