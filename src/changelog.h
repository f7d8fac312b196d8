/*
 * changelog.h: changelogs in the catalogue: who reads which topic for which entity.
 */
#ifndef GC_CHANGELOG_H
#define GC_CHANGELOG_H

#include "catalog.h"
#include "common/common.h"
#include "fmgr.h"
#include "storage/lockdefs.h"
#include "utils/array.h"

typedef struct GcChangelog
{
	int32		changelog_id;
	char	   *name;
	GcEntity   *entity;
	char	   *server;			/* name of the foreign server */
	char	   *topic;
	GcEnvelope	envelope;
	char	   *mapping;		/* JSON text: its own, else the entity's; NULL = none */
	char	   *filter;			/* JSON text or NULL */
	bool		dead_letters;	/* else it halts at a bad record */
	char	   *start;
	int32		source;
	int32		generation;
	char	   *row_version;	/* another one when the changelog or its entity has been altered */
	bool		paused;			/* or has no state in this database */
	bool		halted;
	char	   *waits_for;		/* as noted; NULL = it does not wait */
	int32		worker;			/* which worker noted that */
	int32		changes;		/* by verbs that stop it or let it go on */
} GcChangelog;

/* The changelogs of this name, or all that run for an owner at a server; in the current context. */
extern GcChangelog *gc_changelog_get(const char *name);
extern List *gc_changelogs_at(Oid owner, const char *server);

/* What the decoder needs to know of a changelog. */
extern GcMappingSpec *gc_changelog_spec(const GcChangelog *changelog);

/* The names of servers that an owner has running changelogs at. */
extern List *gc_changelog_servers(Oid owner);

/* Why a changelog halted, which says what may make it go on. */
typedef enum GcHalt
{
	GC_HALT_NONE = 0,
	GC_HALT_RECORD,				/* at a record: skip, or resume when the cause is mended */
	GC_HALT_LOSS,				/* offsets are gone: accept_data_loss */
	GC_HALT_TOPIC,				/* the topic is another one: accept_topic */
	GC_HALT_OTHER				/* resume when the cause is mended */
} GcHalt;

/*
 * Notes that a changelog has halted or waits, and why; reason NULL: that it runs. Writes only what
 * has changed. While one worker of several has noted that it waits, the others' notes are not taken, but for
 * a halt. True when something was written. In a transaction.
 */
extern bool gc_changelog_note(int32 changelog_id, int worker, GcHalt halt, int32 partition, int64 offset,
							  const char *reason, const char *hint);

/* Of offsets that are gone: partition, the first one, the first one that is there, and its time or GC_NO_TIMESTAMP. */
#define GC_LOST_NUMBERS		4

/*
 * Halts it because offsets are gone: lost has GC_LOST_NUMBERS for each partition. Returns the reason, in the current context. In a transaction.
 */
extern char *gc_changelog_note_lost(const GcChangelog *changelog, ArrayType *lost);

/*
 * Notes that deletes since then may not have been read, for the status; a snapshot that is activated takes it back. In a
 * transaction.
 */
extern void gc_changelog_note_deletes(const GcChangelog *changelog, TimestampTz since);

/* For the verbs: the changelog that argument 0 names, which its owner alone may change. */
extern GcChangelog *gc_changelog_argument(FunctionCallInfo fcinfo);

/* The same, to be changed: no batch is on its way, and none begins before this transaction has ended. */
extern GcChangelog *gc_changelog_change(FunctionCallInfo fcinfo);

/*
 * A changelog's lock, until the end of the transaction. Batches share it. It is no row lock, which several
 * workers can share for ever in turns: here who waits for it comes before those who come later.
 */
extern void gc_changelog_lock(int32 changelog_id, LOCKMODE mode);

/* Makes a changelog's state in this database: paused by the caller, or running. */
extern void gc_changelog_set_state(const GcChangelog *changelog, bool paused);

/* ERROR unless the server is one of ours and the entity's owner may use it. */
extern void gc_changelog_check_server(const GcEntity *entity, const char *name);

/* The newest identity of a topic; made when there is none. */
extern int32 gc_changelog_source(const char *server, const char *topic);

/* Where partitions begin: parsed from "earliest", "latest", a time with a zone or "0:123,1:99". */
typedef struct GcStart
{
	enum
	{
		GC_START_EARLIEST, GC_START_LATEST, GC_START_TIME, GC_START_OFFSETS
	}			kind;
	int64		time_us;		/* since 1970 */
	int			noffsets;
	int32	   *partitions;
	int64	   *offsets;
} GcStart;

extern void gc_start_parse(const char *text, GcStart *start);

#endif							/* GC_CHANGELOG_H */
