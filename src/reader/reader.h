/*
 * reader.h: what the files of the reader program share.
 *
 * The program is one event loop (loop.c) over one socket and one source, and one thread for questions
 * that block (probe.c). main.c starts it, part.c keeps the partitions, subscription.c turns records into
 * frames, kafka.c and file.c are the sources. Nothing of the server is linked in; memory that
 * cannot be had ends the program, which is what it is a program of its own for.
 *
 * Threads: everything here belongs to the loop's thread, but for what is said to be the probe's.
 */
#ifndef GC_READER_H
#define GC_READER_H

#include "common/common.h"
#include "common/frame.h"

#include <signal.h>

/* A changelog that reads a topic. */
typedef struct GcChangelog
{
	int32		id;
	int			ncolumns;
	GcMapping  *mapping;		/* NULL: it did not compile, see error */
	GcDecodeError error;
	GcDecoded	decoded;
} GcChangelog;

typedef struct GcSubscription
{
	struct GcSubscription *next;
	uint32		id;
	char	   *topic;
	GcChangelog *changelogs;
	int			nchangelogs;
} GcSubscription;

/* A record that was taken from the source; its bytes are read by fill(). */
typedef struct GcTaken
{
	struct GcTaken *next;
	struct GcPart *part;
	int64		offset;
	int64		after;			/* where reading goes on behind it */
	size_t		bytes;			/* about what it occupies */
	void	   *owner;			/* the source's */
	const void *detail;
} GcTaken;

/* A record's bytes, valid until it is released. */
typedef struct GcMessage
{
	GcDecodeInput in;
	const char *malformed;		/* why it is not even a record; value is then what there is */
} GcMessage;

/*
 * A partition that the server has assigned. It is read while `active`: not after trouble that
 * does not go away by itself.
 */
typedef struct GcPart
{
	struct GcPart *next;
	struct GcPart *next_in_bucket;	/* kafka.c */
	GcSubscription *subscription;
	int32		partition;
	uint32		epoch;
	bool		active;
	bool		checking;		/* the probe looks whether it can be read */
	int64		heard_at;		/* ms: when the source last said something of it */
	int			doubts;			/* checks in a row that got no record, though there is one */
	int64		nudged;			/* the offset at which the source has been nudged, -1 = none yet */
	bool		assigned;		/* the source reads it: not while another subscription has it */
	bool		paused;
	int64		credit;			/* bytes of frames; what is above zero may be spent, the last frame may overdraw */
	int64		taken;			/* the next offset to be taken from the source */
	int64		position;		/* all before it is in the out buffer, or was of no use */
	int64		told;			/* the last position that the server knows */
	int64		told_at;		/* when, in ms */
	int64		end_at;			/* the partition's end as the source met it, -1 = there is more to read */
	bool		end_told;
	bool		open_told;		/* with an open transaction behind it */
	GcTrouble	trouble;		/* told last, or to be told once nothing is held any more */
	bool		trouble_due;
	bool		truncated;		/* OUT_OF_RANGE: the log has another history, whatever its range */
	int			retries;		/* of OUT_OF_RANGE that was not true */
	int64		trouble_at;		/* offset */
	char	   *trouble_text;

	/* taken, and waiting for credit */
	GcTaken    *held;
	GcTaken   **held_tail;
	size_t		held_bytes;
	int64		held_full_at;	/* since when there is too much of it, 0 = there is not */

	int64		commit;			/* to be committed, -1 = nothing */
	void	   *state;			/* the source's */
} GcPart;

typedef struct GcSetting
{
	char	   *name;
	char	   *value;
} GcSetting;

/* What CONFIGURE said. */
typedef struct GcSettings
{
	char	   *kind;
	GcSetting  *options;
	int			noptions;
	uint64		memory;
} GcSettings;

extern const char *gc_setting(const GcSettings *settings, const char *name);

/*
 * A question for the probe's thread. Those with an id are the server's; the others are the loop's own.
 */
typedef enum GcJobKind
{
	GC_JOB_QUERY,
	GC_JOB_PING,				/* does the server answer? */
	GC_JOB_RANGE,				/* low and high of a partition in trouble */
	GC_JOB_CHECK,				/* can a partition be read at this offset? */
	GC_JOB_NUDGE				/* any answer will do, from where the partition is */
} GcJobKind;

typedef struct GcJob
{
	struct GcJob *next;
	GcJobKind	kind;
	uint32		id;				/* of the query; RANGE, CHECK: of the subscription */
	GcQuery		what;
	int64		deadline;		/* ms of gc_now(); of the loop's own, counted from when it begins */
	int64		asked_at;
	char	   *topic;			/* NULL = all */
	int32		partition;		/* -1 = all */
	int64		number;

	/* RANGE, CHECK: what is told with the answer */
	uint32		epoch;
	GcTrouble	trouble;

	/* results */
	GcFrameBuffer answer;		/* QUERY: the whole frame */
	size_t		rows_at;		/* in answer, where their number is put in the end */
	uint32		rows;
	bool		failed;
	GcTrouble	failure;
	int64		low;
	int64		high;
	GcServerState state;
	char		text[512];
} GcJob;

/* What a kind of server must be able to do. */
typedef struct GcSource
{
	const char *kind;

	/* Once. False and a text that has no value of an option in it. */
	bool		(*start) (const GcSettings *settings, char *text, size_t size);

	/* Begin to read part->taken and what follows; assign sets part->assigned, unassign clears it. */
	void		(*assign) (GcPart *part);
	void		(*unassign) (GcPart *part);
	void		(*pause) (GcPart *part, bool pause);

	/* What to wait for: a descriptor to be read, or -1, and at most how many ms. */
	int			(*wait_fd) (void);
	int			(*wait_ms) (void);

	/*
	 * The next record, of an assigned partition, in order of its offsets; false when there is none now. Tells
	 * ends and troubles by gc_part_... on the way.
	 */
	bool		(*take) (GcTaken *taken);
	void		(*fill) (GcTaken *taken, GcMessage *message);
	void		(*release) (GcTaken *taken);

	/* Does it rest after it has had no room, up to a second or until the server answers something? NULL = never. */
	bool		(*rests) (void);

	/* The end as it was last heard of, or -1. */
	int64		(*end) (GcPart *part);
	bool		transactions;	/* end may lie behind what can be read */

	/* Sends part->commit of all partitions of the list that have one; false = not now. */
	bool		(*commit) (GcPart *parts);

	/* In good order, in well under a second. */
	void		(*stop) (void);

	/* In the probe's thread. */
	void		(*query) (GcJob *job);
	void		(*range) (GcJob *job);

	/*
	 * Can a record be read at job->number? Sets trouble, NONE when it can, and text; low and high; rows = 0: there
	 * is none yet. TRANSIENT with low and high known: it should be there and does not come.
	 */
	void		(*check) (GcJob *job);
	void		(*ping) (GcJob *job);
} GcSource;

extern const GcSource gc_kafka_source;
extern const GcSource gc_file_source;

/* kafka.c */
extern const char *gc_kafka_versions(void);

/* loop.c */
extern int	gc_loop_run(void);	/* the exit code */
extern GcFrameBuffer gc_out;	/* to the server; whole frames only, whenever the loop is reached */
extern bool gc_out_full(void);
extern bool gc_loop_is_up(void);	/* the server answers */
extern void gc_loop_fail(const char *text) __attribute__((noreturn));	/* the server's own word for it changed in 18 */
extern void gc_loop_server(GcServerState state, const char *text);
extern void gc_loop_log(int level, const char *text);
extern int64 gc_now(void);		/* ms of a clock that only goes forward; any thread */

/* part.c */
extern void gc_parts_start(const GcSource *source, uint64 memory);
extern void gc_parts_subscribe(GcFrame *frame);
extern void gc_parts_assign(uint32 subscription, int32 partition, uint32 epoch, int64 offset);
extern bool gc_parts_take(bool *more);
extern int	gc_parts_tick(void);
extern void gc_parts_stop(void);
extern GcPart *gc_part_find(uint32 subscription, int32 partition);
extern void gc_part_forget(GcPart *part);
extern void gc_part_commit(GcPart *part, int64 offset);
extern void gc_part_checked(GcJob *job);
extern void gc_part_ranged(GcJob *job);
extern void gc_part_nudged(void);

/* part.c, for the sources */
extern void gc_part_end(GcPart *part, int64 offset);
extern void gc_part_trouble(GcPart *part, GcTrouble trouble, int64 offset, const char *text);
extern void gc_parts_doubt(void);	/* some partition cannot be read: find out which */

/* subscription.c */
extern GcSubscription *gc_subscription_read(GcFrame *frame);	/* NULL = a bad frame */
extern void gc_subscription_free(GcSubscription *subscription);
extern bool gc_record_put(GcFrameBuffer *out, GcPart *part, GcTaken *taken, GcMessage *message);

/* probe.c */
extern void gc_probe_start(const GcSource *source);
extern int	gc_probe_fd(void);	/* readable when there are results */
extern void gc_probe_ask(GcJob *job);	/* takes the job */
extern GcJob *gc_probe_result(void);	/* NULL = none; the caller's to free */
extern void gc_job_free(GcJob *job);
extern int	gc_job_left(const GcJob *job);	/* ms, at least 0 */

/* Of PEEK, however many are asked for: records of a partition, bytes of an answer. */
#define GC_PEEK_ROWS	1000
#define GC_PEEK_BYTES	(8 * 1024 * 1024)

/* In the probe's thread: an answer, cell by cell. */
extern void gc_answer_begin(GcJob *job, int columns);
extern void gc_answer_row(GcJob *job);
extern void gc_answer_text(GcJob *job, const char *text, size_t len);
extern void gc_answer_number(GcJob *job, int64 number);
extern void gc_answer_time(GcJob *job, int64 us);
extern void gc_answer_fail(GcJob *job, GcTrouble trouble, const char *text);
extern void gc_answer_record(GcJob *job, const GcMessage *message, int64 offset);	/* of RECORD, PEEK */

/* main.c */
extern void gc_limit_memory(uint64 memory);

#endif							/* GC_READER_H */
