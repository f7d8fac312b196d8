/*
 * frame.h: what the reader program and the server's processes say to each other.
 *
 * They share one stream socket, the reader's standard input. Both are of one build and run
 * on one machine, so numbers are in its byte order; GC_PROTOCOL in the first frame tells
 * when a library has been upgraded under a running server.
 *
 *		frame:	uint32 length of what follows | uint8 type | body
 *		text:	uint32 length | bytes, no NUL;		GC_FRAME_NULL as length = null
 *
 * A body is a sequence of numbers and texts in the order that is given below. Who reads a
 * frame checks every length against what is left; a body that is too short or too long is an
 * error of the other side (gc_frame_end), never undefined behaviour.
 *
 * A *subscription* is one topic with all changelogs that read it. For each of its partitions
 * there is an *epoch*: it grows with every assignment, and frames of an older one are stale.
 * Records are sent while there is credit for their partition, so that one that cannot be stored
 * does not starve its neighbours. Credit counts bytes of their bodies; it may be overdrawn by one record,
 * so that one that is larger than all credit gets through.
 *
 * No secret is ever in a frame of the reader. Nothing here allocates but through GcFrameBuffer.
 */
#ifndef GC_FRAME_H
#define GC_FRAME_H

#define GC_PROTOCOL			1
#define GC_FRAME_HEAD		5			/* bytes of length and type */
#define GC_FRAME_NULL		0xFFFFFFFFu
#define GC_FRAME_MAX		(320 * 1024 * 1024)	/* bytes of one frame: the largest value twice, and room */

typedef enum GcFrameType
{
	/*
	 * To the reader. First CONFIGURE, once.
	 */

	/* text kind ("kafka", "file"); uint32 n; n * (text option, text value); uint64 memory in bytes */
	GC_FRAME_CONFIGURE = 'C',

	/*
	 * uint32 subscription; text topic; uint32 n; n changelogs: int32 id; uint8 envelope (GcEnvelope);
	 * text mapping or null; text filter or null; uint64 largest value in bytes; uint32 columns, each
	 * text name; uint8 kind; uint8 element; uint8 is_key | is_version << 1 | is_unmapped << 2.
	 * Again with the same number: replaces it for records from then on. n = 0: the end of it.
	 */
	GC_FRAME_SUBSCRIBE = 'S',

	/* uint32 subscription; int32 partition; uint32 epoch; int64 offset to begin with, >= 0 */
	GC_FRAME_ASSIGN = 'A',

	/* uint32 subscription; int32 partition */
	GC_FRAME_UNASSIGN = 'U',

	/* uint32 subscription; int32 partition; uint32 epoch; uint64 bytes that may be sent besides */
	GC_FRAME_CREDIT = 'W',

	/* uint32 subscription; int32 partition; int64 offset: goes to Kafka as the group's, for lag tools */
	GC_FRAME_COMMIT = 'O',

	/* uint32 query; uint8 what (GcQuery); uint32 timeout in ms; text topic or null; int32 partition; int64 number */
	GC_FRAME_QUERY = 'Q',

	/* nothing: end in good order */
	GC_FRAME_STOP = 'X',

	/*
	 * From the reader. First HELLO, once it is configured.
	 */

	/* uint32 GC_PROTOCOL; text versions of its libraries */
	GC_FRAME_HELLO = 'H',

	/*
	 * uint32 subscription; int32 partition; uint32 epoch; int64 offset; int64 time in microseconds
	 * since 1970 or GC_NO_TIMESTAMP; text key or null; text value or null; uint32 headers, each
	 * text name, text value or null; uint32 decodings, each
	 *		int32 changelog; uint8 status (GcDecodeStatus: UPSERT, TOMBSTONE, BAD, HALT); then
	 *		UPSERT, TOMBSTONE: int64 version; uint32 columns, each uint8 GcFieldState and, for TEXT, a text
	 *		BAD, HALT: text sqlstate; text message; text detail; text hint
	 * A changelog whose filter says no, or for which the record means nothing, has no decoding here.
	 */
	GC_FRAME_RECORD = 'R',

	/*
	 * uint32 subscription; int32 partition; uint32 epoch; int64 next offset to be read; int64 end of what
	 * there is, -1 = not known; uint8 flags GC_POSITION_... Sent behind the last record before it: at the end of a
	 * partition, after a second of records, with any decodings or none, and when a transaction at the
	 * end opens or ends. The end is the last stable offset at the end of a partition, and the high watermark
	 * as last heard of before that.
	 */
	GC_FRAME_POSITION = 'P',

	/*
	 * uint32 subscription; int32 partition (-1 = all); uint32 epoch; uint8 GcTrouble; int64 offset or
	 * -1; int64 low; int64 high (-1 = not known); text what the library says. The partition is not read
	 * until it is assigned again, but for GC_TROUBLE_TRANSIENT.
	 */
	GC_FRAME_TROUBLE = 'T',

	/* uint8 GcServerState; text what the library says: only when it changes */
	GC_FRAME_SERVER = 'V',

	/*
	 * uint32 query; uint8 ok; text error or null; uint8 GcTrouble; uint32 rows; uint32 columns; rows * columns
	 * texts or nulls. Columns by query:
	 *		TOPICS		topic, partition, low, high; for all topics, or for the one asked for
	 *		CLUSTER		cluster id, broker "host:port", controller "t"/"f"; one row a broker
	 *		OFFSET		offset: number = a time in microseconds: the first record not before it, else the end; -2 the first, -1 the end
	 *		RECORD		offset, time, CRC-32C of the bytes of key and value, one behind the other: the first record
	 *					at or after number; no row when there is none yet
	 *		DELETES		how many milliseconds tombstones are kept: delete.retention.ms of a topic that is compacted; no row
	 *					for another one
	 *		PEEK		partition, offset, time, key, value: the last number records (1000, 8 MB at most) of all
	 *					partitions each, or of one
	 * A time is a text with a zone, in UTC, or null.
	 */
	GC_FRAME_ANSWER = 'N',

	/* uint8 syslog level; text */
	GC_FRAME_LOG = 'L'
} GcFrameType;

#define GC_POSITION_END		1		/* all has been read that there is now */
#define GC_POSITION_OPEN	2		/* besides what lies behind the start of an open transaction */

typedef enum GcQuery
{
	GC_QUERY_TOPICS = 1,
	GC_QUERY_CLUSTER,
	GC_QUERY_OFFSET,
	GC_QUERY_RECORD,
	GC_QUERY_PEEK,
	GC_QUERY_DELETES
} GcQuery;

/* What is the matter with a partition. */
typedef enum GcTrouble
{
	GC_TROUBLE_NONE = 0,
	GC_TROUBLE_TRANSIENT,		/* goes away by itself: no leader, no connection, timeout */
	GC_TROUBLE_OUT_OF_RANGE,	/* the offset is below the first or behind the end; low and high are set */
	GC_TROUBLE_NO_TOPIC,		/* unknown topic or partition */
	GC_TROUBLE_DENIED,			/* not authorized */
	GC_TROUBLE_UNREADABLE,		/* a batch that cannot be read: CRC, decompression, format */
	GC_TROUBLE_TOO_LARGE		/* a message is above receive.message.max.bytes, or a limit of ours */
} GcTrouble;

typedef enum GcServerState
{
	GC_SERVER_UP = 1,
	GC_SERVER_DOWN,				/* no broker can be reached */
	GC_SERVER_AUTHENTICATION,	/* wrong user, password or certificate */
	GC_SERVER_FAILED			/* the reader ends: wrong options, fatal errors of the library */
} GcServerState;

/*
 * Building and reading frames. A buffer grows as needed; append to it, and it holds whole
 * frames one behind the other, ready to be written.
 */
typedef struct GcFrameBuffer
{
	char	   *data;
	size_t		len;
	size_t		room;
	size_t		start;			/* of the frame being made */
} GcFrameBuffer;

extern void gc_frame_begin(GcFrameBuffer *buffer, GcFrameType type);
extern void gc_frame_put_u8(GcFrameBuffer *buffer, uint8 value);
extern void gc_frame_put_u32(GcFrameBuffer *buffer, uint32 value);
extern void gc_frame_put_u64(GcFrameBuffer *buffer, uint64 value);
extern void gc_frame_put_text(GcFrameBuffer *buffer, const char *text, size_t len);	/* text NULL: null */
extern void gc_frame_put_string(GcFrameBuffer *buffer, const char *string);	/* NUL-terminated, or NULL */
extern void gc_frame_put_bytes(GcFrameBuffer *buffer, const char *bytes, size_t len); /* as they are: whole frames made elsewhere */
extern void gc_frame_finish(GcFrameBuffer *buffer);

/* Forgets the first `count` bytes, which have been written. */
extern void gc_frame_consume(GcFrameBuffer *buffer, size_t count);
extern void gc_frame_free(GcFrameBuffer *buffer);

/* A frame being read. `bad` stays true once something did not fit; values are then 0 and null. */
typedef struct GcFrame
{
	GcFrameType type;
	const char *at;
	const char *end;
	bool		bad;
} GcFrame;

/*
 * The first frame of these bytes: its whole size in bytes and *frame; 0 when it is not all there yet; -1 when
 * it cannot be one.
 */
extern ssize_t gc_frame_next(const char *bytes, size_t len, GcFrame *frame);
extern uint8 gc_frame_get_u8(GcFrame *frame);
extern uint32 gc_frame_get_u32(GcFrame *frame);
extern uint64 gc_frame_get_u64(GcFrame *frame);
extern const char *gc_frame_get_text(GcFrame *frame, size_t *len);	/* NULL = null; not NUL-terminated */

/* True when all was read and nothing did not fit. */
extern bool gc_frame_end(const GcFrame *frame);

#endif							/* GC_FRAME_H */
