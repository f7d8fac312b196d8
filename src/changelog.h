/*
 * changelog.h: changelogs in the catalogue: who reads which topic for which entity.
 */
#ifndef GC_CHANGELOG_H
#define GC_CHANGELOG_H

#include "catalog.h"
#include "common/common.h"

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
	bool		paused;			/* or has no state in this database */
	bool		halted;
	bool		waiting;
} GcChangelog;

/* The changelogs of this name, or all that run for an owner at a server; in the current context. */
extern GcChangelog *gc_changelog_get(const char *name);
extern List *gc_changelogs_at(Oid owner, const char *server);

/* What the decoder needs to know of a changelog. */
extern GcMappingSpec *gc_changelog_spec(const GcChangelog *changelog);

/* The names of servers that an owner has running changelogs at. */
extern List *gc_changelog_servers(Oid owner);

/*
 * Notes that a changelog has halted or waits, and why; reason NULL: that it runs. Writes only what
 * has changed. In a transaction.
 */
extern void gc_changelog_note(int32 changelog_id, bool halted, int32 partition, int64 offset,
							  const char *reason, const char *hint);

/* Where partitions begin: parsed from "earliest", "latest", a timestamp or "0:123,1:99". */
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
