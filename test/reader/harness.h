/*
 * harness.h: a reader program at the other end of a socket, and what it says in a form that tests can look at.
 */
#ifndef GC_READER_HARNESS_H
#define GC_READER_HARNESS_H

#include "common/common.h"
#include "common/frame.h"

#define MAX_DECODINGS	8
#define MAX_COLUMNS		8
#define MAX_HEADERS		8

typedef struct Decoding
{
	int32		changelog;
	GcDecodeStatus status;
	int64		version;
	int			ncolumns;
	char	   *columns[MAX_COLUMNS];	/* NULL = null or absent */
	char	   *sqlstate;
	char	   *message;
} Decoding;

/* A frame of the reader. */
typedef struct Event
{
	GcFrameType type;
	size_t		bytes;			/* of its body */
	uint32		number;			/* subscription, query, protocol */
	int32		partition;
	uint32		epoch;
	int64		offset;			/* of a record, a position or trouble */
	int64		time;
	char	   *key;
	char	   *value;
	size_t		value_len;
	int			nheaders;
	char	   *header_names[MAX_HEADERS];
	char	   *header_values[MAX_HEADERS];
	int			ndecodings;
	Decoding	decodings[MAX_DECODINGS];
	int64		end;
	bool		at_end;
	GcTrouble	trouble;
	int64		low;
	int64		high;
	char	   *text;			/* of trouble, state, log, failed answer */
	int			state;			/* of the server; level of a log line */
	bool		ok;
	uint32		rows;
	uint32		columns;
	char	  **cells;
} Event;

typedef struct Reader
{
	pid_t		pid;
	int			socket;
	GcFrameBuffer out;
	char	   *in;
	size_t		in_at;			/* taken so far */
	size_t		in_len;
	size_t		in_room;
	bool		closed;
	Event		event;
} Reader;

extern const char *reader_program;
extern bool reader_sanitized;
extern int	npassed;
extern int	nfailed;
extern const char *test_name;

extern void check(bool right, const char *what, int line);

#define CHECK(right) check(right, #right, __LINE__)

extern int64 now_ms(void);

extern Reader *reader_start(void);

/* Options end with NULL. */
extern Reader *reader_open(const char *kind, uint64 memory, const char *const *options);

extern void reader_flush(Reader *reader);
extern bool reader_exited(Reader *reader, int timeout_ms, int *status);

/* Asks it to stop; checks that it does. */
extern void reader_close(Reader *reader);

/* The next frame but for log lines, valid until the next call; NULL = none came. */
extern Event *reader_next(Reader *reader, int timeout_ms);

/* The next frame of a type, others are skipped. */
extern Event *reader_wait(Reader *reader, GcFrameType type, int timeout_ms);

extern void say_subscribe(Reader *reader, uint32 id, const char *topic, int nchangelogs, const char *const *filters, GcEnvelope envelope);
extern void say_assign(Reader *reader, uint32 id, int32 partition, uint32 epoch, int64 offset);
extern void say_unassign(Reader *reader, uint32 id, int32 partition);
extern void say_credit(Reader *reader, uint32 id, int32 partition, uint32 epoch, uint64 bytes);
extern void say_commit(Reader *reader, uint32 id, int32 partition, int64 offset);
extern void say_query(Reader *reader, uint32 id, GcQuery what, uint32 timeout, const char *topic, int32 partition, int64 number);

/* The answer to it. */
extern Event *ask(Reader *reader, GcQuery what, const char *topic, int32 partition, int64 number);

#endif							/* GC_READER_HARNESS_H */
