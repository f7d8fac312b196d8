/*
 * ingest.h: what the ingest worker's two parts share: ingest.c talks to the reader,
 * ingest_apply.c writes to the tables.
 */
#ifndef GC_INGEST_H
#define GC_INGEST_H

#include "changelog.h"
#include "rows.h"

struct GcTopic;

/* A partition of a topic that is read. */
typedef struct GcPartition
{
	struct GcTopic *topic;
	int32		partition;
	uint32		epoch;			/* 0 = not assigned */
	int64		high;			/* end as the reader last said, -1 = not known */
	uint64		owed;			/* bytes of frames that were taken and may be sent again */
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
	const char *key;			/* raw; NULL = none */
	size_t		key_len;
	const char *value;
	size_t		value_len;
	int			nheaders;
	GcHeader   *headers;
} GcItem;

/* How far a changelog is in a partition. */
typedef struct GcProgress
{
	int64		committed;		/* the next offset, as the ledger has it */
	int64		reached;		/* the same with what is pending */
	TimestampTz record_time;	/* of the last record, DT_NOBEGIN = none */
} GcProgress;

typedef struct GcIngest
{
	GcChangelog *changelog;
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
	TimestampTz retry_at;
	int64		recent;			/* records since the last look at the share of dead letters */
	int64		recent_dead;
} GcIngest;

typedef struct GcTopic
{
	uint32		subscription;
	char	   *name;
	int			npartitions;
	GcPartition *partitions;
	List	   *ingests;		/* of changelogs that read it */
} GcTopic;

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

/* Halts a changelog and says why. */
extern void gc_ingest_halt(GcIngest *ingest, int32 partition, int64 offset, const char *reason, const char *hint);

/* Says what it waits for; NULL: nothing any more. */
extern void gc_ingest_waits(GcIngest *ingest, const char *reason, const char *hint);

/* The first row of the ledger of a partition. In a transaction. */
extern void gc_ledger_begin(const GcChangelog *changelog, int32 partition, int64 offset);

/* Step of maintenance: starts ingest workers of the owner that are missing. */
extern void gc_ingest_start(Oid owner);

#endif							/* GC_INGEST_H */
