/*
 * retention.c: dropping leaves that nobody needs any more.
 *
 * Three things must be true before a leaf of the speed table may go: every dataset
 * that is not dropped, loading ones included, has its window above it (the floor);
 * it is older than the entity's retention; and no transaction that wrote records
 * before its end is still open. For a dataset's leaf it is enough that the
 * dataset is dropped. Without an active dataset nothing goes: the speed table is then
 * the only place that has the truth.
 *
 * How it goes, each point in transactions of its own, by the worker at top level:
 *
 * 1. decide: _window.dropped_before is raised and the leaf is listed in
 *	  guest_context._leaving. From that commit on no statement with a new snapshot
 *	  needs it, and rollback and new datasets below it are refused.
 * 2. wait until no process has a snapshot from before that commit. The leaf's row
 *	  in _leaving is never updated, so its xmin names the commit. Until then the old
 *	  snapshot reads the leaf as ever; afterwards _window.gone_before says that it
 *	  cannot any more, for those who were not seen here: on a standby.
 * 3. DETACH CONCURRENTLY marks the leaf: new plans do not know it any more. Then it
 *	  waits for those who use the tree; lock_timeout ends that soon and leaves the
 *	  mark, which is good enough:
 * 4. wait until no snapshot is older than the mark and nobody uses the leaf, then
 *	  FINALIZE, with nothing left to wait for.
 * 5. DROP TABLE, in the transaction that takes it off the list.
 *
 * So no lock that a reader minds is ever asked for before it is free, and a reader
 * who stays for hours keeps a leaf for hours and is neither delayed nor broken.
 * Whatever point was reached when a worker died, the next one goes on from there,
 * because it looks at the catalogues and not at what it remembers.
 *
 * A writing transaction in another database that stays open counts as an old
 * snapshot too: it holds back the xmin of everybody. The leaf then waits for it.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "common/fault_point.h"
#include "compat.h"
#include "dataset.h"
#include "maintenance.h"
#include "tree.h"

/* A row of guest_context._leaving and what the server's catalogues say of its leaf. */
typedef struct Leaving
{
	Oid			leaf;
	int32		entity_id;
	int32		dataset_id;		/* 0 = a leaf of the speed table */
	TransactionId decided;		/* that put it on the list */
	bool		exists;
	Oid			parent;			/* InvalidOid once it is detached */
	bool		marked;			/* pending detach */
	TransactionId marked_by;	/* while it has a parent */
} Leaving;

/*
 * 1. Deciding
 */

/* The bound below which the entity's leaves may go now; DT_NOBEGIN for none. */
static TimestampTz
droppable_before(const GcEntity *entity)
{
	GcWindow	window;
	TimestampTz horizon = gc_timestamp_minus(GetCurrentTimestamp(), entity->retention);

	gc_window_read(entity->versions, GetActiveSnapshot(), &window);
	return window.dataset_id == 0 ? DT_NOBEGIN : Min(window.floor, horizon);
}

/* How many of the oldest leaves may go, and where they end. */
static int
count_droppable(const GcSpeedLeaf *leaves, int nleaves, TimestampTz bound, TimestampTz *end)
{
	int			count = 0;

	while (count < nleaves && leaves[count].upper <= bound)
		*end = leaves[count++].upper;
	return count;
}

static void
put_on_list(Oid leaf, int32 entity_id, int32 dataset_id, TimestampTz ends_at)
{
	gc_catalog_run(SPI_OK_INSERT,
				   "INSERT INTO guest_context._leaving (leaf, entity_id, dataset_id, ends_at)"
				   " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", 4,
				   OIDOID, ObjectIdGetDatum(leaf), INT4OID, Int32GetDatum(entity_id),
				   INT4OID, Int32GetDatum(dataset_id), TIMESTAMPTZOID, TimestampTzGetDatum(ends_at));
}

/*
 * Leaves of the speed table. Under the root's lock, which whoever moves the floor
 * takes too: a dataset created meanwhile either lowered the floor before, or finds
 * that its window is not covered.
 */
static void
decide_speed_leaves(const GcEntity *entity, const GcSpeedLeaf *leaves, int nleaves)
{
	GcEntity   *root = gc_entity_by_id(entity->root_id);
	TimestampTz end = DT_NOBEGIN;
	int			count;

	gc_dataset_lock_root(root);
	PushActiveSnapshot(GetLatestSnapshot());
	count = count_droppable(leaves, nleaves, droppable_before(entity), &end);
	PopActiveSnapshot();
	if (count == 0)
		return;
	gc_writers_check(root->versions, end, "drop partitions");
	for (int i = 0; i < count; i++)
		put_on_list(leaves[i].relid, entity->entity_id, 0, leaves[i].upper);
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._window SET dropped_before = $2"
				   " WHERE entity_id OPERATOR(pg_catalog.=) $1 AND dropped_before OPERATOR(pg_catalog.<) $2", 2,
				   INT4OID, Int32GetDatum(entity->entity_id),
				   TIMESTAMPTZOID, TimestampTzGetDatum(end));
}

void
gc_retention_decide(const GcEntity *entity, void *arg)
{
	GcSpeedLeaf *leaves;
	int			nleaves;
	TimestampTz end;

	gc_step_begin();
	nleaves = gc_speed_leaves(entity->speed, &leaves);
	/* most cycles find nothing, without any lock */
	if (count_droppable(leaves, nleaves, droppable_before(entity), &end) > 0)
		decide_speed_leaves(entity, leaves, nleaves);
	gc_step_end();
}

void
gc_retention_decide_datasets(const GcEntity *entity, void *arg)
{
	ListCell   *lc;

	gc_step_begin();
	foreach(lc, gc_dataset_leaves_to_drop())
	{
		GcDatasetGarbage *garbage = lfirst(lc);

		if (garbage->entity_id == entity->entity_id)
			put_on_list(garbage->leaf, garbage->entity_id, garbage->dataset_id, DT_NOBEGIN);
	}
	gc_step_end();
}

/*
 * 2. and 4. Who may still need it
 */

/*
 * The pid of a process in this database with a snapshot that may not see what
 * transaction xid did; 0 when there is none. Vacuum reads no window. The process
 * that waits for this worker does nothing but wait.
 */
static int
find_older_snapshot(TransactionId xid)
{
	int			count;
	VirtualTransactionId *older = GetCurrentVirtualXIDs(xid, true, false,
														PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);

	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = gc_vxid_proc(older[i]);

		if (proc != NULL && proc->pid != 0 && proc->pid != gc_worker_caller())
			return proc->pid;
	}
	return 0;
}

/* The pid of a process that has a lock of a relation; -1 = a prepared transaction, 0 = none. */
static int
find_user_of(Oid relation)
{
	LOCKTAG		tag;
	int			count;
	VirtualTransactionId *users;
	PGPROC	   *proc;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	users = GetLockConflicts(&tag, AccessExclusiveLock, &count);
	if (count == 0)
		return 0;
	proc = gc_vxid_proc(users[0]);
	return proc != NULL && proc->pid != 0 ? proc->pid : -1;
}

/* The same for the leaf with its indexes: who has asked its key filter only has a lock of that. */
static int
find_user(Oid leaf)
{
	int			pid = find_user_of(leaf);
	Relation	rel = pid != 0 ? NULL : try_table_open(leaf, AccessShareLock);
	ListCell   *lc;

	if (rel == NULL)
		return pid;
	foreach(lc, RelationGetIndexList(rel))
		if (pid == 0)
			pid = find_user_of(lfirst_oid(lc));
	table_close(rel, AccessShareLock);
	return pid;
}

/*
 * 3. and 4. Detaching
 */

static PlannedStmt *
utility_statement(const char *sql)
{
	RawStmt    *raw = linitial_node(RawStmt, pg_parse_query(sql));
	PlannedStmt *statement = makeNode(PlannedStmt);

	statement->commandType = CMD_UTILITY;
	statement->canSetTag = true;
	statement->utilityStmt = raw->stmt;
	statement->stmt_location = -1;
	return statement;
}

/*
 * Runs a command at top level, as a client's. It may commit and go on in another
 * transaction; what it keeps over that lives in the portal's memory, so there must be
 * one.
 */
static void
run_at_top_level(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext portal = PortalContext;

	gc_step_begin();
	PortalContext = AllocSetContextCreate(caller, "guest_context command", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(PortalContext);
	PG_TRY();
	{
		ProcessUtility(utility_statement(sql), sql, false, PROCESS_UTILITY_TOPLEVEL,
					   NULL, NULL, None_Receiver, NULL);
	}
	PG_FINALLY();
	{
		MemoryContext ours = PortalContext;

		PortalContext = portal;
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(ours);
	}
	PG_END_TRY();
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/*
 * FINALIZE takes the leaf's strongest lock and then waits for all snapshots that
 * are older than its own: for good measure, since it cannot know when the leaf was
 * marked. We know, and have looked: nobody who matters is older than the mark. An
 * own snapshot that is older than all others says so; what it sees stays the
 * same. (Not with more subtransactions running than a snapshot lists, which must
 * look further down from its xmin; then the server waits, for lock_timeout.)
 */
static void
finalize(const Leaving *leaving)
{
	char	   *sql = psprintf("ALTER TABLE %s DETACH PARTITION %s FINALIZE",
							   gc_quoted_name(leaving->parent), gc_quoted_name(leaving->leaf));

	PushCopiedSnapshot(GetLatestSnapshot());
	if (!GetActiveSnapshot()->suboverflowed)
	{
		TransactionId oldest = GetOldestNonRemovableTransactionId(NULL);

		TransactionIdRetreat(oldest);
		GetActiveSnapshot()->xmin = oldest;
	}
	ProcessUtility(utility_statement(sql), sql, false, PROCESS_UTILITY_QUERY,
				   NULL, NULL, None_Receiver, NULL);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * 5. Dropping
 */

static void
take_off_list(const Leaving *leaving)
{
	if (leaving->dataset_id != 0)
		gc_dataset_leaf_gone(leaving->dataset_id, leaving->entity_id);
	gc_catalog_run(SPI_OK_DELETE,
				   "DELETE FROM guest_context._leaving WHERE leaf OPERATOR(pg_catalog.=) $1", 1,
				   OIDOID, ObjectIdGetDatum(leaving->leaf));
}

/*
 * All together
 */

/* Fills in how things stand; false when it is not on the list any more. In a transaction. */
static bool
look(Leaving *leaving)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(leaving->leaf)};
	bool		found;

	SPI_connect();
	gc_catalog_execute("SELECT l.xmin, c.oid IS NOT NULL, i.inhparent, i.inhdetachpending, i.xmin"
					   " FROM guest_context._leaving l"
					   " LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.leaf"
					   " LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) l.leaf"
					   " WHERE l.leaf OPERATOR(pg_catalog.=) $1", 1, types, values, NULL, SPI_OK_SELECT);
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		value;

		leaving->decided = DatumGetTransactionId(SPI_getbinval(row, desc, 1, &isnull));
		leaving->exists = DatumGetBool(SPI_getbinval(row, desc, 2, &isnull));
		value = SPI_getbinval(row, desc, 3, &isnull);
		leaving->parent = isnull ? InvalidOid : DatumGetObjectId(value);
		value = SPI_getbinval(row, desc, 4, &isnull);
		leaving->marked = !isnull && DatumGetBool(value);
		value = SPI_getbinval(row, desc, 5, &isnull);
		leaving->marked_by = isnull ? InvalidTransactionId : DatumGetTransactionId(value);
	}
	SPI_finish();
	return found;
}

/* "retention" or "dataset": what the worker calls this. */
static const char *
action_of(const Leaving *leaving)
{
	return leaving->dataset_id == 0 ? "retention" : "dataset";
}

/* What keeps the leaf, said for the log and the entity's view. */
static char *
find_obstacle(const Leaving *leaving, const char *leaf)
{
	int			pid = find_older_snapshot(leaving->marked ? leaving->marked_by : leaving->decided);

	if (pid != 0)
		return psprintf("partition \"%s\" is kept for process %d, whose snapshot is older", leaf, pid);
	if (OidIsValid(leaving->parent) && !leaving->marked)
		return NULL;
	pid = find_user(leaving->leaf);
	if (pid == -1)
		return psprintf("partition \"%s\" is kept for a prepared transaction that uses it", leaf);
	if (pid != 0)
		return psprintf("partition \"%s\" is kept for process %d, which uses it", leaf, pid);
	return NULL;
}

/*
 * Before a leaf of the speed table is detached: a snapshot that still wants it, as
 * there may be on a standby, must find out and not answer without it.
 */
static void
announce_gone(const Leaving *leaving)
{
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._window w SET gone_before = l.ends_at"
				   " FROM guest_context._leaving l WHERE l.leaf OPERATOR(pg_catalog.=) $1"
				   "  AND w.entity_id OPERATOR(pg_catalog.=) l.entity_id"
				   "  AND w.gone_before OPERATOR(pg_catalog.<) l.ends_at", 1,
				   OIDOID, ObjectIdGetDatum(leaving->leaf));
}

/*
 * DETACH CONCURRENTLY; whether it came to its end or only to the mark is seen at the
 * next look. Its errors but lock_timeout are the step's.
 */
static void
detach(const char *parent, const char *leaf)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		run_at_top_level(psprintf("ALTER TABLE %s DETACH PARTITION %s CONCURRENTLY", parent, leaf));
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(caller);
	}
	PG_END_TRY();
}

/* Step: brings one leaf as far as it goes now. */
static void
drop_leaf(const GcEntity *entity, void *arg)
{
	Leaving    *leaving = arg;

	for (;;)
	{
		MemoryContext context = CurrentMemoryContext;
		char	   *obstacle = NULL;
		char	   *leaf = NULL;
		char	   *parent = NULL;
		bool		gone;

		gc_worker_yield();
		gc_step_begin();
		if (!look(leaving))
		{
			gc_step_end();
			return;
		}
		gone = !leaving->exists;
		if (!gone)
		{
			MemoryContext transaction = MemoryContextSwitchTo(context);

			leaf = gc_quoted_name(leaving->leaf);
			parent = OidIsValid(leaving->parent) ? gc_quoted_name(leaving->parent) : NULL;
			obstacle = find_obstacle(leaving, get_rel_name(leaving->leaf));
			MemoryContextSwitchTo(transaction);
		}
		if (gone || (obstacle == NULL && (parent == NULL || leaving->marked)))
		{
			if (!gone)
			{
				if (leaving->marked)
					finalize(leaving);
				gc_run_ddl(psprintf("DROP TABLE %s", leaf), entity->owner);
				GC_FAULT("leaf dropped");
			}
			take_off_list(leaving);
			gc_step_end();
			if (!gone)
				gc_step_did(entity, action_of(leaving), "dropped partition %s", leaf);
			return;
		}
		if (obstacle == NULL)
			announce_gone(leaving);
		gc_step_end();
		if (obstacle == NULL)
		{
			GC_FAULT("before a leaf is detached");
			detach(parent, leaf);
			GC_FAULT("leaf detached");
		}
		else if (!gc_worker_nap())
		{
			gc_step_waits(entity, action_of(leaving), "%s", obstacle);
			return;
		}
	}
}

/* The list of one owner's leaves, oldest decision first, in the current memory. */
static List *
read_list(Oid owner)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(owner)};
	List	   *list = NIL;

	gc_step_begin();
	if (gc_catalog_exists())
	{
		SPI_connect();
		gc_catalog_execute("SELECT l.leaf, l.entity_id, l.dataset_id FROM guest_context._leaving l"
						   " JOIN guest_context._entity e ON e.entity_id OPERATOR(pg_catalog.=) l.entity_id"
						   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) e.versions"
						   " WHERE c.relowner OPERATOR(pg_catalog.=) $1 ORDER BY l.entity_id, l.since, l.leaf::pg_catalog.text",
						   1, types, values, NULL, SPI_OK_SELECT);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext spi = MemoryContextSwitchTo(caller);
			Leaving    *leaving = palloc0(sizeof(Leaving));
			bool		isnull;

			leaving->leaf = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
			leaving->entity_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
			leaving->dataset_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &isnull));
			list = lappend(list, leaving);
			MemoryContextSwitchTo(spi);
		}
		SPI_finish();
	}
	gc_step_end();
	return list;
}

void
gc_retention_drop(List *entities)
{
	ListCell   *lc;
	ListCell   *e;

	foreach(lc, entities == NIL ? NIL : read_list(((GcEntity *) linitial(entities))->owner))
	{
		Leaving    *leaving = lfirst(lc);

		foreach(e, entities)
			if (((GcEntity *) lfirst(e))->entity_id == leaving->entity_id)
				gc_step_run(lfirst(e), action_of(leaving), drop_leaf, leaving);
	}
}
