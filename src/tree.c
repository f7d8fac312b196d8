/*
 * tree.c: the tables of one entity: their names, the leaves of the speed
 * table, the lock of its context and the one that its writers hold.
 *
 * Leaves are made ahead of time, standalone, and then attached, which takes
 * ShareUpdateExclusiveLock on the speed table and so makes nobody wait. All DDL
 * runs as the tree's owner in a security-restricted context: an expression of
 * the shape must not run with the rights of whoever happened to call.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "common/fault_point.h"
#include "compat.h"
#include "tree.h"

/* How many partition intervals leaves are made ahead. */
#define LEAVES_AHEAD 4

/* Separates the writer lock from any other lock on a pg_class object. */
#define WRITER_LOCK_SUBID 1

char *
gc_quoted_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

char *
gc_column_list(List *columns, const char *prefix)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s%s", lc == list_head(columns) ? "" : ", ",
						 prefix, quote_identifier(strVal(lfirst(lc))));
	return buf.data;
}

void
gc_run_ddl(const char *sql, Oid owner)
{
	int			level = NewGUCNestLevel();	/* index expressions may set something */
	Oid			save_user;
	int			save_context;
	int			result;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(owner, save_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	result = SPI_execute(sql, false, 0);
	SPI_finish();
	SetUserIdAndSecContext(save_user, save_context);
	AtEOXact_GUC(false, level);
	if (result < 0)
		elog(ERROR, "unexpected result %d of internal command: %s", result, sql);	/* cannot happen */
}

int
gc_speed_leaves(Oid speed, GcSpeedLeaf **leaves)
{
	Relation	rel = table_open(speed, AccessShareLock);
	PartitionDesc desc = RelationGetPartitionDesc(rel, true);
	int			count = 0;

	*leaves = palloc(sizeof(GcSpeedLeaf) * Max(desc->nparts, 1));
	for (int i = 0; desc->boundinfo != NULL && i < desc->boundinfo->ndatums; i++)
	{
		PartitionBoundInfo bounds = desc->boundinfo;
		int			index = bounds->indexes[i]; /* partition that ends at datum i */

		if (index < 0)
			continue;			/* a gap */
		(*leaves)[count].relid = desc->oids[index];
		(*leaves)[count].lower = DatumGetTimestampTz(bounds->datums[i - 1][0]);
		(*leaves)[count].upper = DatumGetTimestampTz(bounds->datums[i][0]);
		count++;
	}
	table_close(rel, NoLock);
	return count;
}

static int64
interval_length(const Interval *interval)
{
	return interval->time + interval->day * USECS_PER_DAY;
}

TimestampTz
gc_speed_leaves_target(const GcEntity *entity)
{
	return GetCurrentTimestamp() +
		LEAVES_AHEAD * interval_length(entity->partition_interval);
}

/* 2026-11-22 12:00:00+00, whatever DateStyle and TimeZone say. */
char *
gc_timestamp_literal(TimestampTz t)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		buf[MAXDATELEN + 1];

	if (TIMESTAMP_IS_NOBEGIN(t))
		return pstrdup("-infinity");
	if (TIMESTAMP_IS_NOEND(t))
		return pstrdup("infinity");
	if (timestamp2tm(t, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	EncodeDateTime(&tm, fsec, false, 0, NULL, USE_ISO_DATES, buf);
	return psprintf("%s+00", buf);
}

/* 1 day 02:00:00, whatever IntervalStyle says. */
char *
gc_interval_literal(const Interval *interval)
{
	struct pg_itm itm;
	char		buf[MAXDATELEN + 1];

	interval2itm(*interval, &itm);
	EncodeInterval(&itm, INTSTYLE_POSTGRES, buf);
	return pstrdup(buf);
}

/* orders_speed_p20261122, with _HHMM where the bound is not midnight. */
static char *
speed_leaf_name(const GcEntity *entity, TimestampTz lower)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(lower, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	if (tm.tm_hour == 0 && tm.tm_min == 0)
		return psprintf("%s_p%04d%02d%02d", get_rel_name(entity->speed),
						tm.tm_year, tm.tm_mon, tm.tm_mday);
	return psprintf("%s_p%04d%02d%02d_%02d%02d", get_rel_name(entity->speed),
					tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min);
}

void
gc_speed_leaf_create(const GcEntity *entity, TimestampTz lower, TimestampTz upper)
{
	char	   *name = speed_leaf_name(entity, lower);
	char	   *leaf = quote_qualified_identifier(entity->schema, name);
	char	   *speed = gc_quoted_name(entity->speed);

	if (OidIsValid(get_relname_relid(name, get_rel_namespace(entity->speed))))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists in schema \"%s\"", name, entity->schema),
				 errdetail("A partition of entity \"%s.%s\" is to have that name; a table that was detached by hand has it still.",
						   entity->schema, entity->name),
				 errhint("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s');",
						 speed, leaf, gc_timestamp_literal(lower), gc_timestamp_literal(upper))));
	gc_run_ddl(psprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL)", leaf, speed),
			   entity->owner);
	gc_run_ddl(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
						speed, leaf, gc_timestamp_literal(lower), gc_timestamp_literal(upper)),
			   entity->owner);
}

/* Where the interval that holds t begins. */
static TimestampTz
interval_start(const GcEntity *entity, TimestampTz t)
{
	const int64 epoch = (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;

	return t - (t - epoch) % interval_length(entity->partition_interval);
}

/* Makes leaves from `lower` on, the last one ending at `end` at most; returns how many. */
static int
make_leaves(const GcEntity *entity, TimestampTz *lower, TimestampTz until, TimestampTz end)
{
	int			made = 0;

	while (*lower < until)
	{
		TimestampTz upper = Min(interval_start(entity, *lower) +
								interval_length(entity->partition_interval), end);

		gc_speed_leaf_create(entity, *lower, upper);
		*lower = upper;
		made++;
	}
	return made;
}

/*
 * A leaf of now or later that somebody took away, from among others: made again. A plan
 * of before does not know it, and nothing in it tells that the leaf is missing, as it does
 * of leaves at the end. So nobody may hold such a plan: the tree is locked against
 * everybody, but not waited for.
 */
static int
fill_gaps(const GcEntity *entity, const GcSpeedLeaf *leaves, int count)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz lower = interval_start(entity, now);
	int			made = 0;

	for (int i = 0; i < count; i++)
	{
		if (leaves[i].lower > now && leaves[i].lower > lower)
		{
			GcWindow	window;

			gc_window_read(entity->versions, NULL, &window);
			if (window.dropped_before > now)
				return 0;		/* the clock went back; what arrives now would not count */
			if (made == 0 && !ConditionalLockRelationOid(entity->versions, AccessExclusiveLock))
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("could not make the partition that is missing in \"%s\"",
								get_rel_name(entity->speed)),
						 errdetail("Others are using \"%s\".", get_rel_name(entity->versions)),
						 errhint("Try again when they are done.")));
			made += make_leaves(entity, &lower, leaves[i].lower, leaves[i].lower);
		}
		lower = Max(lower, leaves[i].upper);
	}
	return made;
}

/*
 * Leaves follow one another without a gap; their bounds are multiples of the
 * partition interval since 1970 in UTC, so that leaves of a day are days. After
 * a change of the interval the first new leaf is as long as it takes to get
 * back on the grid.
 */
int
gc_speed_leaves_ensure(const GcEntity *entity, TimestampTz until)
{
	GcSpeedLeaf *leaves;
	int			count;
	int			made;
	TimestampTz lower;
	int			guc_level;
	Oid			types[2] = {OIDOID, TIMESTAMPTZOID};
	Datum		values[2];

	/* One maker at a time; the same lock that ATTACH takes. */
	LockRelationOid(entity->speed, ShareUpdateExclusiveLock);
	count = gc_speed_leaves(entity->speed, &leaves);
	guc_level = gc_enter();
	made = fill_gaps(entity, leaves, count);
	lower = count > 0 ? leaves[count - 1].upper : interval_start(entity, GetCurrentTimestamp());
	if (lower >= until)
	{
		gc_leave(guc_level);
		return made;
	}
	made += make_leaves(entity, &lower, until, DT_NOEND);
	GC_FAULT("speed leaves made");
	values[0] = ObjectIdGetDatum(entity->versions);
	values[1] = TimestampTzGetDatum(lower);
	SPI_connect();
	gc_catalog_execute("UPDATE guest_context._window SET leaves_until = $2"
					   " WHERE versions OPERATOR(pg_catalog.=) $1", 2, types, values, NULL,
					   SPI_OK_UPDATE);
	SPI_finish();
	gc_leave(guc_level);
	return made;
}

void
gc_context_lock(int32 root_id, LOCKMODE mode)
{
	LockDatabaseObject(gc_catalog_relid("_entity"), (Oid) root_id, 0, mode);
}

void
gc_entity_check_exists(const GcEntity *entity, Oid relation)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("entity \"%s.%s\" has been dropped", entity->schema, entity->name)));
}

GcEntity *
gc_entity_lock(Oid relation, LOCKMODE mode)
{
	GcEntity   *entity = gc_entity_get(relation, true);

	if (entity == NULL)
		entity = gc_entity_get(relation, false);	/* raises the error */
	gc_entity_check_owner(entity);
	gc_context_lock(entity->root_id, mode);
	gc_entity_check_exists(entity, relation);
	return gc_entity_get(relation, true);	/* as whoever held the lock left it */
}

void
gc_writer_lock(Oid root_versions, LOCKMODE mode)
{
	LockDatabaseObject(RelationRelationId, root_versions, WRITER_LOCK_SUBID, mode);
}

/* When the transaction of backend `pid` began; 0 when that cannot be told. */
static TimestampTz
transaction_start(int pid)
{
	int			count;

	pgstat_clear_backend_activity_snapshot();
	count = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= count; i++)
	{
		LocalPgBackendStatus *entry = gc_backend_status(i);

		if (entry != NULL && entry->backendStatus.st_procpid == pid)
			return entry->backendStatus.st_xact_start_timestamp;
	}
	return 0;
}

/*
 * A holder's arrival times are not older than its transaction. A prepared
 * transaction has no process, and its start is not known: it always counts.
 */
int
gc_writers_find_older(Oid root_versions, TimestampTz bound, TimestampTz *start)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (lock->locktag.locktag_type != LOCKTAG_OBJECT ||
			lock->locktag.locktag_field1 != MyDatabaseId ||
			lock->locktag.locktag_field2 != RelationRelationId ||
			lock->locktag.locktag_field3 != root_versions ||
			lock->locktag.locktag_field4 != WRITER_LOCK_SUBID ||
			lock->holdMask == 0)
			continue;
		*start = lock->pid == 0 ? 0 : transaction_start(lock->pid);
		if (*start == 0 || *start < bound)
			return lock->pid == 0 ? -1 : lock->pid;
	}
	return 0;
}

void
gc_writers_check(Oid root_versions, TimestampTz bound, const char *verb)
{
	TimestampTz start;
	int			pid = gc_writers_find_older(root_versions, bound, &start);

	if (pid == 0)
		return;
	if (pid == -1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot %s while a prepared transaction holds written records", verb),
				 errdetail("Its records may lie before %s; it must be committed or rolled back.",
						   gc_timestamp_literal(bound)),
				 errhint("SELECT gid, prepared FROM pg_prepared_xacts WHERE database = current_database();")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot %s while process %d has written records that are not committed", verb, pid),
			 errdetail("Its transaction began at %s, its records may lie before %s.",
					   start == 0 ? "an unknown time" : gc_timestamp_literal(start),
					   gc_timestamp_literal(bound)),
			 errhint("Wait for it, or SELECT pg_terminate_backend(%d);", pid)));
}

TimestampTz
gc_timestamp_plus(TimestampTz t, const Interval *i)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(t),
												   IntervalPGetDatum(i)));
}

TimestampTz
gc_timestamp_minus(TimestampTz t, const Interval *i)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(t),
												   IntervalPGetDatum(i)));
}
