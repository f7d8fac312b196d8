/*
 * ingest.h: what the ingest worker's parts share: ingest.c is its loop, ingest_load.c finds out what there
 * is to do and where to go on, ingest_link.c talks to the reader, ingest_watch.c says why a changelog
 * waits, ingest_unreadable.c finds a way around what cannot be read, ingest_apply.c writes to the tables. replay.c does its
 * work with them too, in a session.
 */
#ifndef GC_INGEST_H
#define GC_INGEST_H

#include "changelog.h"
#include "reader_process.h"
#include "rows.h"

struct GcTopic;

/*
 * A record that tells a topic from another one of the same name: it was at this offset when its batch was committed.
 * offset -1 = none.
 */
typedef struct GcAnchor
{
	int64		offset;
	int64		time_us;		/* since 1970, or GC_NO_TIMESTAMP */
	uint32		crc;			/* CRC-32C of key and value */
} GcAnchor;

/* A partition of a topic that is read. */
typedef struct GcPartition
{
	struct GcTopic *topic;
	int32		partition;
	uint32		epoch;			/* 0 = not assigned, as those of other workers are */
	int64		high;			/* end as the reader last said, -1 = not known */
	int64		reached;		/* read so far */
	int64		reached_asked;	/* the same when the topic's end was asked for */
	uint64		owed;			/* bytes of frames that were taken and may be sent again */
	char	   *problem;		/* what the reader last said is the matter and goes away by itself */
	TimestampTz behind_since;	/* there is more than was read, and nothing has come; 0 = not so */
	bool		assigned_again; /* because of that */
	TimestampTz open_since;		/* a transaction is open that holds back what lies behind; 0 = none */
	GcAnchor	anchor;			/* the last record */
	GcAnchor	proven;			/* one that was there when looked for, or is to be looked for */
} GcPartition;

/* The bytes of one record frame; owed to its partition when all changelogs have done with it. */
typedef struct GcCredit
{
	GcPartition *partition;
	uint32		bytes;
	int			users;
} GcCredit;

/* A record on its way into one changelog's entity. */
typedef struct GcItem
{
	GcCredit   *credit;
	int32		partition;		/* index in the topic */
	GcDecodeStatus status;
	int64		offset;
	int64		time_us;		/* since 1970, or GC_NO_TIMESTAMP */
	int64		version_us;
	GcField    *fields;			/* upsert, tombstone */
	GcDecodeError *error;		/* bad, halt */
	GcFrame		raw;			/* key, value, headers */
	uint32		crc;
} GcItem;

/* How far a changelog is in a partition. */
typedef struct GcProgress
{
	int64		committed;		/* the next offset, as the ledger has it */
	int64		reached;		/* the same with what is pending */
	TimestampTz record_time;	/* of the last record, DT_NOBEGIN = none */
	GcAnchor	anchor;			/* the last record with what is pending */
	GcAnchor	committed_anchor;
} GcProgress;

typedef struct GcIngest
{
	GcChangelog *changelog;
	GcEntity   *root;			/* of its entity */
	struct GcTopic *topic;
	GcMappingSpec *spec;
	GcRows	   *rows;
	int		   *key_columns;	/* positions in the spec */
	int			nkeys;
	GcProgress *progress;		/* per partition of the topic */
	MemoryContext pending;		/* items and what they point to */
	GcItem	   *items;
	int			nitems;
	int			room;
	Size		bytes;
	bool		moved;			/* positions without records are to be committed */
	bool		stopped;		/* halted, or its owner must reload */
	int			failures;		/* transient ones in a row */
	char	   *failure;		/* the last one's message */
	TimestampTz retry_at;
	char	   *halt_reason;	/* it is to halt behind what is pending */
	int32		halt_partition;
	int64		halt_offset;
	int64		halt_through;	/* the last offset that cannot be read there */
	char	   *noted;			/* what the catalogue says that it waits for */
	bool		noted_known;	/* and that it does */
	int64		recent;			/* records since the last look at the share of dead letters */
	int64		recent_dead;
} GcIngest;

/* A topic that is read, or has been. Its place in gc_work.topics, from 1 on, is its number for the reader. */
typedef struct GcTopic
{
	uint32		subscription;
	char	   *name;
	MemoryContext context;		/* of what follows */
	char	   *loaded;			/* its changelogs as the catalogue had them, NULL = it has none now */
	bool		stale;			/* to be loaded anew even if they are still the same */
	int			npartitions;	/* 0 = it cannot be read now */
	GcPartition *partitions;
	List	   *ingests;		/* of changelogs that read it */
	char	   *problem;		/* why it cannot be read now */
	uint32		question;		/* asked for its partitions, 0 = not now */
	uint32		anchor_question;	/* asked for a record, 0 = not now */
	int			anchor_partition;	/* of that question */
	GcAnchor	anchor_next;	/* becomes that partition's proven one when the answer is right */
} GcTopic;

/* The worker: all that its parts have in common. */
typedef struct GcWork
{
	Oid			database;
	Oid			owner;
	Oid			server;
	int			worker;			/* of gc_workers, from 0 on */
	MemoryContext load_context; /* all that was loaded, for as long as the reader lives */
	MemoryContext turn_context; /* of one turn of the loop */
	GcReader   *reader;
	List	   *topics;			/* GcTopic */
	char	   *loaded;			/* what the catalogue said, as a text */
	uint64		credit;			/* bytes that a partition may have on the way */
	bool		full;			/* of a batch, in some changelog */
	uint32		connection;		/* hash of what the reader was started with */
	bool		reload;			/* all, with another reader */
	bool		refresh;		/* what has changed */
	TimestampTz reload_at;		/* but not before */
	char	   *server_problem; /* why no broker answers, as the reader says */
	TimestampTz refused_at;		/* that it is the login; 0 = it is not */
	TimestampTz heard_at;		/* when something of the server's came last */
	TimestampTz asked_at;		/* when all topics were asked for last */
	bool		silent;			/* it has no answer, for too long */
	const char *no_space;		/* why nothing is to be written now */
} GcWork;

extern GcWork gc_work;

typedef enum GcOutcome
{
	GC_DONE,					/* what was pending is committed, or some of it */
	GC_WAITS,					/* a transient failure: again at retry_at */
	GC_HALTED,
	GC_RELOAD					/* somebody else has moved the changelog on */
} GcOutcome;

/*
 * Applies what is pending of a changelog, in transactions of its own. Nothing is thrown but what
 * ends the process; failures are noted in the catalogue.
 */
extern GcOutcome gc_ingest_apply(GcIngest *ingest);

/*
 * Writes the first nitems of what is pending, in the caller's transaction and under the writer lock, and
 * leaves the ledger alone. Bad records become dead letters. Returns how many it has taken, which may be fewer; *rows is how many
 * were written. *halt: why it does not go past the next one.
 */
extern int	gc_ingest_write(GcIngest *ingest, int nitems, int *rows, const char **halt);

/* Takes the first nitems off what is pending; their bytes are owed to their partitions. */
extern void gc_ingest_forget(GcIngest *ingest, int nitems);

/* A sign of life of a worker, which begins something or is about to wait; nothing in another session. */
extern void gc_ingest_alive(bool busy);

/* A transaction of the worker's, with a snapshot; the turn's memory context behind its end. */
extern void gc_ingest_begin(void);
extern void gc_ingest_commit(void);

/* Halts a changelog and says why. */
extern void gc_ingest_halt(GcIngest *ingest, GcHalt kind, int32 partition, int64 offset, const char *reason,
						   const char *hint);

/* The same for offsets that are gone: lost has GC_LOST_NUMBERS for each of nlost partitions. */
extern void gc_ingest_halt_lost(GcIngest *ingest, const int64 *lost, int nlost);

/* The call that skips records, for hints. */
extern char *gc_ingest_skip_hint(const GcIngest *ingest, int32 partition, int64 offset, int64 through);

/* Says what it waits for; NULL: nothing any more. Writes only what has changed. */
extern void gc_ingest_waits(GcIngest *ingest, const char *reason, const char *hint);

/* The first row of the ledger of a partition, unless there is one or it has been stopped. In a transaction. */
extern void gc_ledger_begin(const GcChangelog *changelog, int32 partition, int64 offset);

/* ingest_load.c: what the catalogue says, as a text. In a transaction. */
extern char *gc_ingest_catalogue(void);

/* As gc_work.reload and refresh say. No topics then: there is nothing to do. */
extern void gc_ingest_load(void);

/* What takes a changelog's records, at its topic in gc_work, made if need be. In a transaction, in the topic's or gc_work's memory. */
extern GcIngest *gc_ingest_create(GcChangelog *changelog);

/* Tells the reader of a topic; has it read a partition from an offset on. */
extern void gc_topic_subscribe(GcTopic *topic);
extern void gc_partition_assign(GcPartition *partition, int64 offset);

/* Shares what may be on the way among partitions that are to be assigned. */
extern void gc_credit_share(int npartitions);

/* From where the reader must read a partition: the least that one of the changelogs needs; -1 = none does. */
extern int64 gc_ingest_needed(GcTopic *topic, int partition);

/* ASSIGN: a partition is read from this offset on. CREDIT: so many bytes more of it may be on the way. */
extern void gc_partition_say(const GcPartition *partition, GcFrameType type, uint64 number);

/* Is this record another one than the anchor? *proven: it is the same one. */
extern bool gc_anchor_differs(const GcAnchor *anchor, GcFrame *answer, bool *proven);
extern void gc_anchor_set(GcAnchor *anchor, int64 offset, int64 time_us, uint32 crc);

/* ingest_link.c: waits for the reader, or for what else there is to do, so many milliseconds. */
extern void gc_ingest_wait(long milliseconds);

/* Takes one frame. */
extern void gc_ingest_take(GcFrame *frame);

/* Asks; false and *problem when there is no answer, else its frame, behind the trouble. Takes frames meanwhile. */
extern bool gc_ingest_ask(GcQuery what, const char *topic, int32 partition, int64 number, GcFrame *answer,
						  char **problem);

/* Asks, and leaves the answer to gc_ingest_take; the question's number. */
extern uint32 gc_ingest_ask_later(GcQuery what, const char *topic, int32 partition, int64 number);

/* The same of any reader, and for so long; the answer comes as a frame. */
extern uint32 gc_reader_ask(GcReader *reader, GcQuery what, uint32 milliseconds, const char *topic, int32 partition,
							int64 number);
extern char *gc_frame_string(GcFrame *frame);
extern int64 gc_string_number(const char *text);

/* What a reader says of a topic's partitions: arrays by partition of low and high, -1 = not known. */
extern int	gc_answer_partitions(GcFrame *answer, int64 **lows, int64 **highs);

/* ingest_watch.c: asks what is to be asked from time to time, and says why changelogs wait. */
extern void gc_watch(bool drained);
extern void gc_watch_changelog(GcIngest *ingest);
extern void gc_watch_problem(GcTopic *topic, const char *problem);

/* An answer to what it has asked, behind the trouble; NULL: none, because of a problem. */
extern void gc_watch_answer(uint32 query, GcFrame *answer, const char *problem);

/* ingest_unreadable.c: places behind which the reader does not come. The reader has died: there, or somewhere. */
extern void gc_unreadable_died(const char *topic, int32 partition, int64 offset);
extern void gc_unreadable_died_reading(const char *how);
extern bool gc_unreadable_suspected(void);
extern GcPartition *gc_unreadable_alone(void);
extern char *gc_unreadable_waits(void);
extern void gc_unreadable_found(GcPartition *partition, int64 offset, const char *reason);
extern bool gc_unreadable(GcPartition *partition, int64 from);
extern void gc_unreadable_turn(void);

/* free_space.c: why nothing should be written now, until the next call; NULL: there is room. Cheap. */
extern const char *gc_short_of_space(void);

/* Between transactions: ends the process for the moment when somebody wants the database to himself. */
extern void gc_ingest_yield(void);

/* Step of maintenance: starts ingest workers of the owner that are missing; false when there is no slot for one. */
extern bool gc_ingest_start(Oid owner);

#endif							/* GC_INGEST_H */
