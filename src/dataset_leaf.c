/*
 * dataset_leaf.c: the leaf of one entity in one dataset: made, filled, attached.
 *
 * Called by seal (from the staging table) and build (from the truth). The leaf is
 * created standalone, filled, and only then attached, so that readers wait for
 * nothing: ATTACH takes ShareUpdateExclusiveLock on the batch table, and a
 * CHECK constraint proves the bound so that it need not scan.
 *
 * Rows are written frozen, straight into the table's pages. Frozen rows are
 * visible to every snapshot, which is what COPY FREEZE must guard against; here
 * it is right because the leaf is made in this transaction (an abort removes its
 * file) and rows count only where the dataset is the active one in the reader's
 * snapshot: a snapshot from before the seal has another one.
 *
 * What is the same in all rows of a leaf is not stored in any: those columns are
 * added to the empty leaf with a constant default, which PostgreSQL then keeps
 * in the catalogue for rows that end before the column, and all rows here do. Only
 * a row's version, key and shape take room, for external datasets as in a plain table.
 *
 * No trigger, default or rule of the leaf is run, which lets a trigger refuse everybody
 * else. Its constraints are checked for rows from outside; rows from the tree itself have
 * passed them before.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "commands/vacuum.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/bufmgr.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "dataset.h"
#include "progress.h"
#include "tree.h"

PG_FUNCTION_INFO_V1(gc_refuse_change);

/* Rows and bytes that go to the table at a time. */
#define WRITE_BATCH_ROWS 1000
#define WRITE_BATCH_BYTES (1024 * 1024)

/* Proves the leaf's bound to ATTACH, and goes afterwards. */
#define BOUND_CONSTRAINT "gc_bound"

/* A column that is the same in all rows of a leaf. */
typedef struct Constant
{
	const char *name;
	const char *type;
	bool		external;		/* only where rows come from outside */
} Constant;

static const Constant constants[] = {
	{"gc_source", "integer", true},
	{"gc_partition", "integer", true},
	{"gc_offset", "bigint", true},
	{"gc_dataset", "integer", false},
	{"gc_arrived_at", "timestamptz", false},
};

/* A DestReceiver: rows of a query go into the leaf. */
typedef struct LeafWriter
{
	DestReceiver receiver;		/* first, for the executor */
	const GcMember *member;
	GcLeafCounts *counts;
	Relation	leaf;
	AttrNumber	version;
	AttrNumber	deleted;
	EState	   *estate;			/* to check constraints; NULL = they hold */
	ResultRelInfo *target;
	BulkInsertState bulk;
	CommandId	command;
	MemoryContext context;		/* outlives the query */
	MemoryContext scratch;		/* reset with each batch */
	TupleTableSlot *row;		/* laid out as the leaf, constants filled in */
	TupleDesc	stored;			/* the leaf's columns up to the last one that is stored */
	AttrNumber *columns;		/* the query's columns in the leaf */
	int			ncolumns;
	TupleTableSlot **slots;		/* rows of the batch */
	int			nslots;			/* how many of those were made */
	int			nrows;
	Size		nbytes;
} LeafWriter;

void
gc_owner_enter(Oid owner, GcCaller *caller)
{
	caller->guc_level = gc_enter();
	set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_SAVE, true, 0, false);
	GetUserIdAndSecContext(&caller->user, &caller->context);
	SetUserIdAndSecContext(owner, caller->context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

void
gc_owner_leave(const GcCaller *caller)
{
	SetUserIdAndSecContext(caller->user, caller->context);
	gc_leave(caller->guc_level);
}

void
gc_owner_counts(Oid owner, const char *sql, int64 *counts, int ncounts)
{
	GcCaller	caller;
	bool		isnull;

	gc_owner_enter(owner, &caller);
	SPI_connect();
	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of counting: %s", sql);	/* cannot happen */
	for (int i = 0; i < ncounts; i++)
		counts[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
												i + 1, &isnull));
	SPI_finish();
	gc_owner_leave(&caller);
}

int64
gc_owner_count(Oid owner, const char *sql)
{
	int64		count;

	gc_owner_counts(owner, sql, &count, 1);
	return count;
}

/*
 * The writer
 */

/* Is the column the same in all rows of this dataset? */
static bool
is_constant(const GcDataset *dataset, const char *name)
{
	for (int i = 0; i < lengthof(constants); i++)
		if (strcmp(constants[i].name, name) == 0)
			return !constants[i].external || !dataset->built;
	return false;
}

/* The value of such a column, and its SQL. */
static Datum
constant_value(const GcDataset *dataset, const char *name)
{
	if (strcmp(name, "gc_dataset") == 0)
		return Int32GetDatum(dataset->dataset_id);
	if (strcmp(name, "gc_arrived_at") == 0)
		return TimestampTzGetDatum(DT_NOEND);
	if (strcmp(name, "gc_source") == 0)
		return Int32GetDatum(-1);	/* a record of equal version beats it */
	return strcmp(name, "gc_offset") == 0 ? Int64GetDatum(0) : Int32GetDatum(0);
}

static char *
constant_sql(const GcDataset *dataset, const char *name)
{
	if (strcmp(name, "gc_arrived_at") == 0)
		return "infinity";
	if (strcmp(name, "gc_dataset") == 0)
		return psprintf("%d", dataset->dataset_id);
	return strcmp(name, "gc_source") == 0 ? "-1" : "0";
}

/* Finds out which columns the query fills and how far stored rows reach. */
static void
describe_rows(LeafWriter *writer, const GcDataset *dataset)
{
	TupleDesc	leaf = RelationGetDescr(writer->leaf);
	int			natts = 0;

	writer->row = MakeSingleTupleTableSlot(leaf, &TTSOpsVirtual);
	writer->columns = palloc(sizeof(AttrNumber) * leaf->natts);
	for (int i = 0; i < leaf->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(leaf, i);

		writer->row->tts_isnull[i] = att->attisdropped;
		if (att->attisdropped)
			continue;
		if (is_constant(dataset, NameStr(att->attname)))
			writer->row->tts_values[i] = constant_value(dataset, NameStr(att->attname));
		else
		{
			writer->columns[writer->ncolumns++] = i + 1;
			natts = i + 1;
		}
	}
	writer->stored = CreateTemplateTupleDesc(natts);
	for (int i = 0; i < natts; i++)
		TupleDescCopyEntry(writer->stored, i + 1, leaf, i + 1);
}

static void
writer_startup(DestReceiver *self, int operation, TupleDesc source)
{
	LeafWriter *writer = (LeafWriter *) self;
	TupleDesc	target = RelationGetDescr(writer->leaf);

	/* rows are taken over by position: the query was made from this very descriptor */
	for (int i = 0; i < writer->ncolumns; i++)
		if (source->natts != writer->ncolumns ||
			TupleDescAttr(source, i)->atttypid !=
			TupleDescAttr(target, writer->columns[i] - 1)->atttypid)
			elog(ERROR, "column %d of the query of a leaf does not fit", i + 1);	/* cannot happen */
}

static void
flush_rows(LeafWriter *writer)
{
	MemoryContext caller = MemoryContextSwitchTo(writer->scratch);

	if (writer->nrows > 0)
		table_multi_insert(writer->leaf, writer->slots, writer->nrows, writer->command,
						   TABLE_INSERT_FROZEN | TABLE_INSERT_SKIP_FSM, writer->bulk);
	for (int i = 0; i < writer->nrows; i++)
		ExecClearTuple(writer->slots[i]);
	writer->nrows = 0;
	writer->nbytes = 0;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(writer->scratch);
	gc_progress_update(writer->counts->rows + writer->counts->tombstones, 0);
}

/* What the catalogue will say about the leaf. */
static void
count_row(LeafWriter *writer, TupleTableSlot *row)
{
	GcLeafCounts *counts = writer->counts;
	bool		isnull;
	TimestampTz version = DatumGetTimestampTz(slot_getattr(row, writer->version, &isnull));

	if (TIMESTAMP_NOT_FINITE(version))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("a row of entity \"%s\" has an infinite version",
						gc_entity_label(writer->member->entity)),
				 errdetail("No later version could ever win or lose against it."),
				 errhint("Correct the rows in \"%s\", then seal again.",
						 get_rel_name(writer->member->staging))));
	if (DatumGetBool(slot_getattr(row, writer->deleted, &isnull)))
		counts->tombstones++;
	else
		counts->rows++;
	if (version >= writer->member->window_start)
		counts->recent++;
	if (version > counts->max_version)
		counts->max_version = version;
}

static bool
writer_receive(TupleTableSlot *source, DestReceiver *self)
{
	LeafWriter *writer = (LeafWriter *) self;
	TupleTableSlot *row = writer->row;
	MemoryContext caller;
	HeapTuple	tuple;

	slot_getallattrs(source);
	ExecClearTuple(row);
	for (int i = 0; i < writer->ncolumns; i++)
	{
		row->tts_values[writer->columns[i] - 1] = source->tts_values[i];
		row->tts_isnull[writer->columns[i] - 1] = source->tts_isnull[i];
	}
	ExecStoreVirtualTuple(row);
	if (writer->estate != NULL)
	{
		ResetPerTupleExprContext(writer->estate);
		ExecConstraints(writer->target, row, writer->estate);
	}
	count_row(writer, row);

	if (writer->nrows == writer->nslots)
	{
		caller = MemoryContextSwitchTo(writer->context);
		writer->slots[writer->nslots++] = MakeSingleTupleTableSlot(RelationGetDescr(writer->leaf),
																   &TTSOpsHeapTuple);
		MemoryContextSwitchTo(caller);
	}
	caller = MemoryContextSwitchTo(writer->scratch);
	tuple = heap_form_tuple(writer->stored, row->tts_values, row->tts_isnull);
	MemoryContextSwitchTo(caller);
	ExecStoreHeapTuple(tuple, writer->slots[writer->nrows++], false);
	writer->nbytes += tuple->t_len;
	if (writer->nrows == WRITE_BATCH_ROWS || writer->nbytes >= WRITE_BATCH_BYTES)
		flush_rows(writer);
	return true;
}

static void
writer_shutdown(DestReceiver *self)
{
	flush_rows((LeafWriter *) self);
}

static void
writer_destroy(DestReceiver *self)
{
}

/* A constraint quotes the row that breaks it; that is not for the server's log. */
static void
say_where(void *arg)
{
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
	{
		errdetail("The row is in \"%s\".", (const char *) arg);
		errhint("Correct the rows there, then seal again.");
	}
}

/* Runs the query and writes its rows. The caller is in the owner's place. */
static void
write_rows(const GcDataset *dataset, const GcMember *member, const char *query,
		   GcLeafCounts *counts)
{
	LeafWriter *writer = palloc0(sizeof(LeafWriter));
	SPIExecuteOptions options = {.read_only = true, .must_return_tuples = true};
	ErrorContextCallback context = {.callback = say_where, .previous = error_context_stack};
	int			result;

	writer->receiver.receiveSlot = writer_receive;
	writer->receiver.rStartup = writer_startup;
	writer->receiver.rShutdown = writer_shutdown;
	writer->receiver.rDestroy = writer_destroy;
	writer->receiver.mydest = DestTransientRel;	/* for SPI, anything but DestNone */
	writer->member = member;
	writer->counts = counts;
	memset(counts, 0, sizeof(*counts));
	counts->max_version = DT_NOBEGIN;
	writer->leaf = table_open(member->leaf, RowExclusiveLock);
	writer->version = get_attnum(member->leaf, member->entity->version_column);
	writer->deleted = get_attnum(member->leaf, "gc_deleted");
	writer->bulk = GetBulkInsertState();
	writer->command = GetCurrentCommandId(true);
	writer->context = CurrentMemoryContext;
	writer->scratch = AllocSetContextCreate(CurrentMemoryContext, "guest_context leaf",
											ALLOCSET_DEFAULT_SIZES);
	writer->slots = palloc(sizeof(TupleTableSlot *) * WRITE_BATCH_ROWS);
	describe_rows(writer, dataset);
	if (!dataset->built)
	{
		writer->estate = CreateExecutorState();
		writer->target = makeNode(ResultRelInfo);
		InitResultRelInfo(writer->target, writer->leaf, 0, NULL, 0);
		context.arg = get_rel_name(member->staging);
		error_context_stack = &context;
	}

	/*
	 * One process: writing takes longer than reading, so that handing every row
	 * over costs more than it saves. And functions in the leaf's constraints,
	 * which run in the middle of this query, need not be parallel safe.
	 */
	set_config_option("max_parallel_workers_per_gather", "0", PGC_USERSET, PGC_S_SESSION,
					  GUC_ACTION_SAVE, true, 0, false);

	SPI_connect();
	options.dest = &writer->receiver;
	result = SPI_execute_extended(query, &options);
	SPI_finish();
	error_context_stack = context.previous;
	if (result != SPI_OK_SELECT)
		elog(ERROR, "unexpected result %d of filling a leaf", result);	/* cannot happen */

	for (int i = 0; i < writer->nslots; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	ExecDropSingleTupleTableSlot(writer->row);
	if (writer->estate != NULL)
		FreeExecutorState(writer->estate);
	FreeBulkInsertState(writer->bulk);
	table_finish_bulk_insert(writer->leaf, TABLE_INSERT_FROZEN | TABLE_INSERT_SKIP_FSM);
	table_close(writer->leaf, NoLock);
	MemoryContextDelete(writer->scratch);
}

/*
 * The leaf
 */

/*
 * What fills one column that is stored. Rows of a built dataset keep where they came
 * from; a tombstone from outside keeps a key and a version and nothing else. The type is
 * said twice, or CASE would make its base type of a domain.
 */
static char *
column_sql(const GcDataset *dataset, const GcMember *member, const char *name, Oid type)
{
	const GcEntity *entity = member->entity;
	const char *quoted = quote_identifier(name);

	if (!dataset->built)
	{
		/* NULL where the shape got the column after the dataset was created */
		if (get_attnum(member->staging, name) == InvalidAttrNumber)
			return psprintf("NULL::%s", format_type_be_qualified(type));
		if (strcmp(name, "gc_deleted") != 0 && strcmp(name, entity->version_column) != 0 &&
			!list_member(entity->key_columns, makeString((char *) name)))
			return psprintf("CASE WHEN v.gc_deleted THEN NULL::%s ELSE v.%s END",
							format_type_be_qualified(type), quoted);
	}
	return psprintf("v.%s", quoted);
}

/* The leaf's columns that are stored, in the leaf's order. */
static char *
select_list(const GcDataset *dataset, const GcMember *member)
{
	Relation	leaf = table_open(member->leaf, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(leaf);
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !is_constant(dataset, NameStr(att->attname)))
			appendStringInfo(&sql, "%s%s", sql.len > 0 ? ", " : "",
							 column_sql(dataset, member, NameStr(att->attname), att->atttypid));
	}
	table_close(leaf, AccessShareLock);
	return sql.data;
}

/*
 * _refuse_change() -> trigger: rows of a dataset stay as they were sealed. A second row of a
 * key, or one that is gone, would make reading wrong: a leaf has one version per key.
 */
Datum
gc_refuse_change(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager", "guest_context._refuse_change")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition \"%s\" cannot be changed", RelationGetRelationName(data->tg_relation)),
			 errdetail("It holds a dataset, which is immutable once it is sealed."),
			 errhint("Apply newer versions with guest_context.apply, or load another dataset.")));
	PG_RETURN_NULL();
}

/*
 * What keeps a leaf as it is sealed. Writing it here goes around triggers, so that
 * neither seal nor build pays for them.
 */
static void
protect_leaf(const char *leaf, Oid owner)
{
	gc_run_ddl(psprintf("CREATE TRIGGER gc_refuse_change BEFORE INSERT OR UPDATE OR DELETE ON %s"
						" FOR EACH ROW EXECUTE FUNCTION guest_context._refuse_change()", leaf), owner);
	gc_run_ddl(psprintf("CREATE TRIGGER gc_refuse_truncate BEFORE TRUNCATE ON %s"
						" FOR EACH STATEMENT EXECUTE FUNCTION guest_context._refuse_change()", leaf), owner);
}

static void
create_leaf(const GcDataset *dataset, GcMember *member)
{
	const GcEntity *entity = member->entity;
	char	   *relname = psprintf("%s_d%d", get_rel_name(entity->batch), dataset->dataset_id);
	char	   *leaf = quote_qualified_identifier(entity->schema, relname);
	StringInfoData sql;

	gc_run_ddl(psprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES)",
						leaf, gc_quoted_name(entity->batch)), entity->owner);
	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ", leaf);
	for (int i = 0; i < lengthof(constants); i++)
		if (is_constant(dataset, constants[i].name))
			appendStringInfo(&sql, "DROP COLUMN %1$s, ADD COLUMN %1$s %2$s NOT NULL DEFAULT '%3$s', ",
							 constants[i].name, constants[i].type,
							 constant_sql(dataset, constants[i].name));
	appendStringInfo(&sql, "ADD CONSTRAINT " BOUND_CONSTRAINT " CHECK (gc_dataset = %d)",
					 dataset->dataset_id);
	gc_run_ddl(sql.data, entity->owner);
	protect_leaf(leaf, entity->owner);
	member->leaf = get_relname_relid(relname, get_rel_namespace(entity->versions));
}

/* Attaching builds the tree's indexes; one more finds the rows that reading maps. */
static void
attach_leaf(const GcDataset *dataset, const GcMember *member)
{
	const GcEntity *entity = member->entity;
	char	   *leaf = gc_quoted_name(member->leaf);
	char	   *index = psprintf("%s_recent", get_rel_name(member->leaf));

	gc_run_ddl(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%d)",
						gc_quoted_name(entity->batch), leaf, dataset->dataset_id), entity->owner);
	gc_run_ddl(psprintf("ALTER TABLE %s DROP CONSTRAINT " BOUND_CONSTRAINT, leaf), entity->owner);
	gc_run_ddl(psprintf("CREATE INDEX %s ON %s (%s) WHERE %s >= '%s'", quote_identifier(index), leaf,
						quote_identifier(entity->version_column),
						quote_identifier(entity->version_column),
						gc_timestamp_literal(member->window_start)), entity->owner);
}

/*
 * ANALYZE of this table alone: for a partitioned one the command would go through
 * each of its leaves again.
 */
static void
analyze(Oid relid)
{
	VacuumParams params = {.options = VACOPT_ANALYZE, .log_min_duration = -1};

	analyze_rel(relid, NULL, &params, NIL, true, GetAccessStrategy(BAS_VACUUM));
	CommandCounterIncrement();
}

/* How many rows its statistics say that a tree has; -1 = it was never analyzed. */
static double
known_rows(Oid versions)
{
	Relation	rel = table_open(versions, AccessShareLock);
	double		rows = rel->rd_rel->reltuples;

	table_close(rel, AccessShareLock);
	return rows;
}

void
gc_tree_analyze(const GcEntity *entity)
{
	GcCaller	caller;

	gc_owner_enter(entity->owner, &caller);
	analyze(entity->versions);
	gc_owner_leave(&caller);
}

void
gc_leaf_make(const GcDataset *dataset, GcMember *member, const char *source, GcLeafCounts *counts)
{
	GcCaller	caller;

	gc_entity_check_columns(member->entity);
	create_leaf(dataset, member);
	gc_progress_start(dataset->built ? GC_PROGRESS_BUILD : GC_PROGRESS_SEAL, dataset->dataset_id,
					  member->entity->view);
	gc_owner_enter(member->entity->owner, &caller);
	write_rows(dataset, member,
			   psprintf("SELECT %s FROM %s", select_list(dataset, member), source), counts);
	gc_owner_leave(&caller);
	CommandCounterIncrement();

	attach_leaf(dataset, member);
	gc_owner_enter(member->entity->owner, &caller);
	analyze(member->leaf);
	/* what is built from the truth has the rows that the tree had before */
	if (!dataset->built || known_rows(member->entity->versions) < counts->rows)
		analyze(member->entity->versions);
	gc_owner_leave(&caller);

	gc_catalog_run(SPI_OK_UPDATE,
				   "UPDATE guest_context._dataset_entity SET leaf = $3, rows = $4, tombstones = $5,"
				   " max_version = $6, recent_rows = $7"
				   " WHERE dataset_id OPERATOR(pg_catalog.=) $1 AND entity_id OPERATOR(pg_catalog.=) $2", 7,
				   INT4OID, Int32GetDatum(dataset->dataset_id),
				   INT4OID, Int32GetDatum(member->entity->entity_id),
				   OIDOID, ObjectIdGetDatum(member->leaf),
				   INT8OID, Int64GetDatum(counts->rows),
				   INT8OID, Int64GetDatum(counts->tombstones),
				   TIMESTAMPTZOID, TimestampTzGetDatum(counts->max_version),
				   INT8OID, Int64GetDatum(counts->recent));
	gc_progress_end();
}
