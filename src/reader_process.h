/*
 * reader_process.h: starting the reader program and talking to it, from an
 * ingest worker or from a session (check_server, topics, peek).
 */
#ifndef GC_READER_PROCESS_H
#define GC_READER_PROCESS_H

#include "common/common.h"
#include "common/frame.h"

typedef struct GcReader
{
	pid_t		pid;			/* 0 = it does not run */
	pgsocket	socket;			/* not blocking */
	GcFrameBuffer out;			/* frames that are still to be written */
	char	   *in;				/* bytes that were read and not taken yet */
	size_t		in_start;
	size_t		in_len;
	size_t		in_room;
	bool		closed;			/* the other side has ended */
} GcReader;

/*
 * Starts a reader for a foreign server with the options and secrets that `user` has
 * there, and tells it to configure itself. ERROR when that cannot be: no mapping, a
 * PUBLIC mapping, options that are refused, no process. In a transaction, for
 * it reads catalogues. Memory in the current context, which must live as long as the reader: its reset
 * ends the reader. The reader dies with this process, however that ends. Careful: it fetches single batches.
 */
extern GcReader *gc_reader_start(Oid server, Oid user, uint64 memory, bool careful);

/* Ends it: asks, waits a moment, kills; waits for the process; frees the reader. Never fails. */
extern void gc_reader_stop(GcReader *reader);

/*
 * Reads and writes what can be without waiting. The caller waits for reader->socket being readable, and
 * writable while reader->out.len > 0. An end of the stream sets reader->closed.
 */
extern void gc_reader_pump(GcReader *reader);

/*
 * The next frame that has arrived; false when there is none. It stays valid until the next gc_reader_pump
 * of this reader. ERROR (protocol violation) when what came cannot be one.
 */
extern bool gc_reader_next(GcReader *reader, GcFrame *frame);

/* Of the first frame: ERROR unless it is a HELLO of our own protocol. */
extern void gc_reader_check_hello(GcFrame *frame);

/* How the process ended, as a text, after closed: "was killed by signal 9: Killed". */
extern char *gc_reader_death(GcReader *reader);

/* What the library or a broker says, fit to be shown and kept: a copy that is valid UTF-8, in one line, not too long. */
extern char *gc_reader_text(const char *text, size_t len);

/* What there is of a partition: offsets from low up to high, without it; high is the last stable offset. */
typedef struct GcRange
{
	int32		partition;
	int64		low;
	int64		high;
} GcRange;

/*
 * server_verbs.c: the partitions of a topic as they are now, asked by a reader for `user`. ERROR when the server
 * does not answer, with no more of what it said than that; cancel works. In a transaction, in the current context.
 */
extern GcRange *gc_topic_ranges(Oid server, Oid user, const char *topic, int timeout_ms, int *count);

/* "kafka" or "file": what a server is. */
extern const char *gc_server_kind(Oid server);

#endif							/* GC_READER_PROCESS_H */
