/*
 * purge.c: purge_version: a version that should never have been.
 *
 * A clock that was a year ahead, a record of another system: no honest record can replace such a version for
 * as long as its time lies ahead. It is deleted from the speed leaves and from those of datasets, and noted
 * in guest_context._purged, so that it stays away when a changelog, replay, requeue, apply or a snapshot
 * brings it again.
 *
 * Whoever writes rows reads the list when he opens the leaf (rows.c), and compares keys, by the equality of their
 * types, where a version of the same time comes. Where nothing has been purged, as nearly always, that is one look
 * into an empty index for each batch.
 *
 * Locks. The context, exclusively: sealing and building a dataset, which could have read the
 * list before, are done or begin afterwards. Then the writer lock of the root, exclusively and to
 * the end of the transaction: writers in flight are done, and those that come look at the list
 * after they have the lock. Writers wait for as long as that takes; it is given up after LOCK_TIMEOUT.
 *
 * Rows are deleted through the table's access method, around triggers, as sealing writes them: leaves of
 * datasets refuse everybody else. Old snapshots see them as they would see any row that was deleted.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "purge.h"
#include "tree.h"
#include "view.h"

PG_FUNCTION_INFO_V1(gc_purge_version);

#define LOCK_TIMEOUT "5s"

/* What was taken out of one table. */
typedef struct Removed
{
	Oid			leaf;
	int32		dataset_id;		/* 0 = of the speed table */
	int64		rows;
	int64		tombstones;
} Removed;

/*
 * Keys as texts
 */

static void
say_literal(void *arg)
{
	errhint("The key of \"%s\" is a row literal: ROW(%s)::text.", gc_entity_label(arg),
			gc_column_list(((const GcEntity *) arg)->key_columns, ""));
}

/* A row literal into texts of its columns. */
static char *
split_row(const GcEntity *entity, const char *key, char **columns)
{
	int			nkeys = list_length(entity->key_columns);
	TupleDesc	desc = CreateTemplateTupleDesc(nkeys);
	ErrorContextCallback context = {.callback = say_literal, .arg = (void *) entity, .previous = error_context_stack};
	Datum	   *values = palloc(sizeof(Datum) * nkeys);
	bool	   *nulls = palloc(sizeof(bool) * nkeys);
	Datum		row;
	HeapTupleData tuple = {0};

	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	attno = get_attnum(entity->versions, strVal(list_nth(entity->key_columns, i)));
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(entity->versions, attno, &type, &typmod, &collation);
		TupleDescInitEntry(desc, i + 1, strVal(list_nth(entity->key_columns, i)), type, typmod, 0);
	}
	BlessTupleDesc(desc);
	error_context_stack = &context;
	row = OidInputFunctionCall(F_RECORD_IN, unconstify(char *, key), RECORDOID, desc->tdtypmod);
	error_context_stack = context.previous;
	tuple.t_len = HeapTupleHeaderGetDatumLength(DatumGetHeapTupleHeader(row));
	tuple.t_data = DatumGetHeapTupleHeader(row);
	heap_deform_tuple(&tuple, desc, values, nulls);
	for (int i = 0; i < nkeys; i++)
	{
		Oid			output;
		bool		is_varlena;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key column \"%s\" cannot be null", strVal(list_nth(entity->key_columns, i)))));
		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &is_varlena);
		columns[i] = OidOutputFunctionCall(output, values[i]);
	}
	return OidOutputFunctionCall(F_RECORD_OUT, row);
}

/*
 * The texts of a key's columns: the key is the value, or a row literal where there are several. Returns the
 * key as its types write it.
 */
static char *
split_key(const GcEntity *entity, const char *key, char **columns)
{
	AttrNumber	attno;
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			input;
	Oid			ioparam;
	Oid			output;
	bool		is_varlena;

	if (list_length(entity->key_columns) > 1)
		return split_row(entity, key, columns);
	attno = get_attnum(entity->versions, strVal(linitial(entity->key_columns)));
	get_atttypetypmodcoll(entity->versions, attno, &type, &typmod, &collation);
	getTypeInputInfo(type, &input, &ioparam);
	getTypeOutputInfo(type, &output, &is_varlena);
	columns[0] = OidOutputFunctionCall(output, OidInputFunctionCall(input, unconstify(char *, key), ioparam, typmod));
	return columns[0];
}

/*
 * Finding them
 */

/* (VALUES ('o1'::text, '2036-…'::timestamptz), …) p (ref, modified_at) */
static char *
purged_sql(const GcEntity *entity, const List *purged)
{
	int			nkeys = list_length(entity->key_columns);
	char	  **columns = palloc(sizeof(char *) * nkeys);
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, purged)
	{
		const GcPurged *one = lfirst(lc);

		appendStringInfoString(&sql, sql.len > 0 ? ", (" : "(VALUES (");
		split_key(entity, one->key, columns);
		for (int i = 0; i < nkeys; i++)
		{
			Oid			type = get_atttype(entity->versions,
										   get_attnum(entity->versions, strVal(list_nth(entity->key_columns, i))));

			/* bpchar, and not character, which is character(1) */
			appendStringInfo(&sql, "%s::%s, ", quote_literal_cstr(columns[i]),
							 format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		}
		appendStringInfo(&sql, "'%s'::pg_catalog.timestamptz)", gc_timestamp_literal(one->version));
	}
	appendStringInfo(&sql, ") p (%s, %s)", gc_column_list(entity->key_columns, ""),
					 quote_identifier(entity->version_column));
	return sql.data;
}

/* v is one of p, as a condition. */
static char *
match_sql(const GcEntity *entity)
{
	return psprintf("%1$s AND v.%2$s OPERATOR(pg_catalog.=) p.%2$s",
					gc_columns_equal_sql(entity->versions, entity->key_columns, "v", entity->key_columns, "p"),
					quote_identifier(entity->version_column));
}

/* Is this the row's key? */
static bool
has_key(const GcEntity *entity, const char *key, TupleTableSlot *row)
{
	int			nkeys = list_length(entity->key_columns);
	char	  **columns = palloc(sizeof(char *) * nkeys);

	split_key(entity, key, columns);
	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	attno = get_attnum(row->tts_tableOid, strVal(list_nth(entity->key_columns, i)));
		Form_pg_attribute att = TupleDescAttr(row->tts_tupleDescriptor, attno - 1);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);
		Oid			input;
		Oid			ioparam;
		bool		isnull;
		Datum		value = slot_getattr(row, attno, &isnull);

		getTypeInputInfo(att->atttypid, &input, &ioparam);
		if (isnull || !DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, att->attcollation, value,
													  OidInputFunctionCall(input, columns[i], ioparam, att->atttypmod))))
			return false;
	}
	return true;
}

bool
gc_purged_is(const GcEntity *entity, const List *purged, TupleTableSlot *row, AttrNumber version)
{
	bool		isnull;
	Datum		value = slot_getattr(row, version, &isnull);
	const ListCell *lc;

	foreach(lc, purged)
	{
		const GcPurged *one = lfirst(lc);

		if (!isnull && one->version == DatumGetTimestampTz(value) && has_key(entity, one->key, row))
			return true;
	}
	return false;
}

/*
 * Taking them out
 */

static Removed *
removed_of(List **all, Oid leaf, int32 dataset_id)
{
	Removed    *removed;
	ListCell   *lc;

	foreach(lc, *all)
		if (((Removed *) lfirst(lc))->leaf == leaf)
			return lfirst(lc);
	removed = palloc0(sizeof(Removed));
	removed->leaf = leaf;
	removed->dataset_id = dataset_id;
	*all = lappend(*all, removed);
	return removed;
}

/* Deletes a version from the whole tree; what was deleted where. */
static List *
take_out(const GcEntity *entity, GcPurged *purged)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *all = NIL;
	GcCaller	role;

	CommandCounterIncrement();
	gc_owner_enter(entity->owner, &role);
	SPI_connect();
	/* not read-only: with a snapshot of now, where the transaction has one per statement */
	if (SPI_execute(psprintf("SELECT v.tableoid, v.ctid, v.gc_dataset, v.gc_deleted FROM %s v, %s WHERE %s",
							 gc_quoted_name(entity->versions), purged_sql(entity, list_make1(purged)), match_sql(entity)), false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of looking for purged versions");	/* cannot happen */
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Oid			leaf = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
		ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(row, desc, 2, &isnull));
		MemoryContext spi = MemoryContextSwitchTo(caller);
		Removed    *removed = removed_of(&all, leaf, DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull)));
		Relation	rel = table_open(leaf, RowExclusiveLock);

		if (DatumGetBool(SPI_getbinval(row, desc, 4, &isnull)))
			removed->tombstones++;
		else
			removed->rows++;
		simple_table_tuple_delete(rel, tid, GetActiveSnapshot());
		table_close(rel, NoLock);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	gc_owner_leave(&role);
	CommandCounterIncrement();
	return all;
}

static int64
count_removed(const List *all)
{
	int64		count = 0;
	const ListCell *lc;

	foreach(lc, all)
		count += ((Removed *) lfirst(lc))->rows + ((Removed *) lfirst(lc))->tombstones;
	return count;
}

void
gc_purged_leave_out(const GcEntity *entity, Oid staging)
{
	List	   *purged = gc_purged_read(entity->entity_id);
	GcCaller	role;
	uint64		count;

	if (purged == NIL)
		return;
	gc_owner_enter(entity->owner, &role);
	SPI_connect();
	if (SPI_execute(psprintf("DELETE FROM %s v USING %s WHERE %s", gc_quoted_name(staging),
							 purged_sql(entity, purged), match_sql(entity)), false, 0) != SPI_OK_DELETE)
		elog(ERROR, "unexpected result of leaving out purged versions");	/* cannot happen */
	count = SPI_processed;
	SPI_finish();
	gc_owner_leave(&role);
	if (count > 0)
		ereport(NOTICE,
				(errmsg("%llu rows of entity \"%s\" are left out: their versions have been purged",
						(unsigned long long) count, gc_entity_label(entity)),
				 errhint("SELECT * FROM guest_context.purged_version;")));
}

/*
 * What the catalogue says of a dataset's leaf that has lost rows. Whoever verified it saw them, and has to
 * look again.
 */
static void
correct_dataset(const GcEntity *entity, const Removed *removed, TimestampTz version)
{
	const char *leaf = gc_quoted_name(removed->leaf);
	const char *column = quote_identifier(entity->version_column);
	const GcDataset *dataset = gc_dataset_get(removed->dataset_id);
	const GcMember *member = gc_dataset_member(dataset, entity->versions);
	int64		count = removed->rows + removed->tombstones;
	TimestampTz newest = member->max_version;

	/* the newest is found by the index of recent ones, unless there are none */
	if (newest == version)
	{
		PushActiveSnapshot(GetLatestSnapshot());	/* without what was just deleted */
		gc_owner_counts(entity->owner,
						psprintf("SELECT coalesce((SELECT max(%1$s) FROM %2$s WHERE %1$s >= '%3$s'),"
								 " (SELECT max(%1$s) FROM %2$s), '-infinity')", column, leaf,
								 gc_timestamp_literal(member->window_start)), &newest, 1);
		PopActiveSnapshot();
	}
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET rows = rows OPERATOR(pg_catalog.-) $3,"
				   " tombstones = tombstones OPERATOR(pg_catalog.-) $4, recent_rows = recent_rows OPERATOR(pg_catalog.-) $5,"
				   " max_version = $6"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 AND entity_id OPERATOR(pg_catalog.=) $2", 6,
				   INT4OID, Int32GetDatum(removed->dataset_id), INT4OID, Int32GetDatum(entity->entity_id),
				   INT8OID, Int64GetDatum(removed->rows), INT8OID, Int64GetDatum(removed->tombstones),
				   INT8OID, Int64GetDatum(version >= member->window_start ? count : 0),
				   TIMESTAMPTZOID, TimestampTzGetDatum(newest));
	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset SET verified_at = NULL, verified_active = NULL, verified_ok = NULL,"
				   " regressions = NULL WHERE dataset_id OPERATOR(pg_catalog.=) $1", 1,
				   INT4OID, Int32GetDatum(removed->dataset_id));
	if (dataset->state == GC_ACTIVE)
		ereport(NOTICE,
				(errmsg("the version was the active dataset's, which has none of this key any more"),
				 errdetail("A dataset keeps one version of each key. What is left of this one are records of its window."),
				 errhint("Apply the right version, or replay the changelog that brought it.")));
}

/*
 * The verb
 */

/* Who holds the lock that is waited for in vain. */
static void
say_writer(void *arg)
{
	const GcEntity *root = arg;
	TimestampTz start;
	int			pid;

	if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	pid = gc_writers_find_older(root->versions, DT_NOEND, &start);
	if (pid > 0)
		errdetail("Process %d has written records of the context and goes on.", pid);
	errhint("Purge again when that transaction has ended.");
}

/* Until nobody writes, reads the list, or seals. */
static GcEntity *
lock_out_writers(Oid relation)
{
	GcEntity   *entity;
	GcEntity   *root;
	ErrorContextCallback context = {.callback = say_writer, .previous = error_context_stack};

	if (LockTimeout == 0 || LockTimeout > 5000)
		set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	entity = gc_entity_lock(relation, ExclusiveLock);
	gc_entity_check_columns(entity);
	root = entity->parent_id == 0 ? entity : gc_entity_by_id(entity->root_id);
	LockRelationOid(entity->view, AccessShareLock);
	context.arg = root;
	error_context_stack = &context;
	gc_writer_lock(root->versions, ExclusiveLock);
	error_context_stack = context.previous;
	return entity;
}

static void
note(const GcEntity *entity, const GcPurged *purged, const char *reason)
{
	Oid			types[5] = {INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum		values[5] = {Int32GetDatum(entity->entity_id), CStringGetTextDatum(purged->key),
		TimestampTzGetDatum(purged->version), CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)),
	reason ? CStringGetTextDatum(reason) : (Datum) 0};
	char		nulls[6] = "     ";

	nulls[4] = reason ? ' ' : 'n';
	SPI_connect();
	gc_catalog_execute("INSERT INTO guest_context._purged (entity_id, key, version, role, reason)"
					   " VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", 5, types, values, nulls, SPI_OK_INSERT);
	SPI_finish();
}

/*
 * purge_version(entity regclass, key text, version timestamptz, reason text) -> bigint
 */
Datum
gc_purge_version(PG_FUNCTION_ARGS)
{
	int			guc_level = gc_enter();
	GcEntity   *entity;
	GcPurged	purged;
	char	   *reason = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	char	  **columns;
	List	   *all;
	ListCell   *lc;
	int64		count;

	gc_require_argument(fcinfo, 0, "entity");
	gc_require_argument(fcinfo, 1, "key");
	gc_require_argument(fcinfo, 2, "version");
	PreventCommandIfReadOnly("purge_version()");
	gc_require_read_committed("purge a version");
	purged.version = PG_GETARG_TIMESTAMPTZ(2);
	if (TIMESTAMP_NOT_FINITE(purged.version))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a version is a finite time")));
	entity = lock_out_writers(PG_GETARG_OID(0));
	columns = palloc(sizeof(char *) * list_length(entity->key_columns));
	purged.key = split_key(entity, text_to_cstring(PG_GETARG_TEXT_PP(1)), columns);
	note(entity, &purged, reason);
	all = take_out(entity, &purged);
	foreach(lc, all)
		if (((Removed *) lfirst(lc))->dataset_id != 0)
			correct_dataset(entity, lfirst(lc), purged.version);
	count = count_removed(all);
	if (count == 0)
		ereport(NOTICE,
				(errmsg("entity \"%s\" has no such version now; it will be left out when it comes", gc_entity_label(entity))));
	gc_audit("purge_version", gc_entity_label(entity), reason,
			 psprintf("{\"version\": \"%s\", \"removed\": %lld}", gc_timestamp_literal(purged.version), (long long) count));
	gc_leave(guc_level);
	PG_RETURN_INT64(count);
}
