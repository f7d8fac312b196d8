/*
 * rows.c: decoded records into a leaf of the speed table.
 *
 * Called by apply(), requeue() and the ingest worker. It does what the executor does for an INSERT into the leaf, with its
 * own functions: defaults, constraints and triggers are the owner's, so all runs as the owner, in a
 * security-restricted context. The caller holds the root's writer lock and has read the clock after it.
 *
 * Two things are cheaper than in COPY. Rows need not become text and be taken apart again. And a B-tree gets the
 * entries of many rows in its own order: one after the other they fall onto pages that are at hand. COPY
 * inserts each row's entries with the row, at a random place in all indexes but one at best; that is most
 * of its time. Only the order of pages matters, so entries are sorted by the first bytes of their first column, not by
 * the index's comparison.
 *
 * Payloads do not get into the server's log: constraints quote whole rows, input functions values, so
 * errors are caught and made anew. gc_rows_failed says which record was at fault.
 *
 * What an operator has purged is left out: see purge.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/itup.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "purge.h"
#include "rows.h"
#include "tree.h"

#define ROWS_AT_ONCE	1000	/* into the heap; as COPY does */
#define BYTES_AT_ONCE	65536
#define AHEAD			4		/* entries that are fetched into the cache */
#define ENTRIES_BYTES	(16 * 1024 * 1024)	/* of all indexes, before they are inserted */

/* A system column of a leaf. */
typedef enum OwnColumn
{
	OWN_ARRIVED_AT, OWN_OFFSET, OWN_DATASET, OWN_SOURCE, OWN_PARTITION, OWN_DELETED, OWN_COLUMNS
} OwnColumn;

static const char *const own_names[OWN_COLUMNS] = {
	"gc_arrived_at", "gc_offset", "gc_dataset", "gc_source", "gc_partition", "gc_deleted"
};

/* A column of the shape. */
typedef struct Column
{
	const char *name;
	int			att;			/* its place, from 0 on */
	FmgrInfo	input;
	Oid			ioparam;
	int32		typmod;
	bool		is_version;		/* of a type that holds one as it is: nothing need be read */
	ExprState  *missing;		/* its DEFAULT, NULL = none */
} Column;

/* A column that the entity knows nothing of and that has a DEFAULT. */
typedef struct OtherColumn
{
	int			att;
	ExprState  *value;
} OtherColumn;

/* An entry on its way into a B-tree. */
typedef struct Entry
{
	uint64		head;			/* what it is sorted by */
	int64		number;			/* of its record */
	IndexTuple	tuple;
} Entry;

typedef struct Entries
{
	Entry	   *of;
	int			count;
	int			room;
} Entries;

struct GcRows
{
	const GcEntity *entity;
	const GcMappingSpec *spec;
	MemoryContext context;		/* while open */
	MemoryContext values;		/* of rows that are not in the heap yet */
	MemoryContext entry_context;
	Relation	leaf;
	TimestampTz arrived_at;
	EState	   *estate;
	ResultRelInfo *target;
	BulkInsertState bulk;
	TransitionCaptureState *capture;
	int			own[OWN_COLUMNS];
	Column	   *columns;
	OtherColumn *others;
	int			nothers;
	bool		generated;		/* some are computed from others */
	const char *column;			/* whose value is being read */
	bool		one_by_one;		/* a trigger may look at the rows before */
	bool		plain_indexes;	/* none that the executor has to look after */
	TupleTableSlot *slots[ROWS_AT_ONCE];
	int64		numbers[ROWS_AT_ONCE];
	int			nslots;
	Size		bytes;
	Entries    *entries;		/* by index */
	Size		entries_bytes;
	int64		number;			/* of the record at work */
	int64		failed;			/* of the last error, 0 = not known */
	List	   *purged;			/* versions that must not come back, nearly always none */
	int			version_att;	/* where a row's version stands, from 0 on */
	int64		left_out;		/* rows that were such versions */
	int64		left_out_before;	/* the same, until the leaf was opened */
};

void		(*gc_rows_meanwhile) (void) = NULL;

static GcColumnKind
kind_of_type(Oid type)
{
	switch (getBaseType(type))
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
			return GC_KIND_TEXT;
		case JSONOID:
		case JSONBOID:
			return GC_KIND_JSON;
		case TIMESTAMPTZOID:
			return GC_KIND_TIMESTAMPTZ;
		case TIMESTAMPOID:
			return GC_KIND_TIMESTAMP;
		case DATEOID:
			return GC_KIND_DATE;
		default:
			return OidIsValid(get_base_element_type(type)) ? GC_KIND_ARRAY : GC_KIND_OTHER;
	}
}

/* The decoder's view of an entity's columns. */
GcMappingSpec *
gc_entity_spec(const GcEntity *entity)
{
	int			ncolumns = list_length(entity->shape_columns);
	GcDecodeColumn *columns = palloc0(sizeof(GcDecodeColumn) * ncolumns);
	GcMappingSpec *spec = palloc0(sizeof(GcMappingSpec));

	for (int i = 0; i < ncolumns; i++)
	{
		const char *name = strVal(list_nth(entity->shape_columns, i));
		Oid			type = get_atttype(entity->versions, get_attnum(entity->versions, name));

		columns[i].name = name;
		/* what has been renamed or dropped is told when a row is to be written */
		columns[i].kind = OidIsValid(type) ? kind_of_type(type) : GC_KIND_OTHER;
		if (columns[i].kind == GC_KIND_ARRAY)
			columns[i].element = kind_of_type(get_base_element_type(type));
		columns[i].is_key = list_member(entity->key_columns, makeString((char *) name));
		columns[i].is_version = strcmp(name, entity->version_column) == 0;
		columns[i].is_unmapped = entity->unmapped_column != NULL &&
			strcmp(name, entity->unmapped_column) == 0;
	}
	spec->columns = columns;
	spec->ncolumns = ncolumns;
	spec->mapping = entity->mapping;
	return spec;
}

/* The leaf for records that arrive now, made if maintenance is late; locked. */
static Relation
open_leaf(const GcEntity *entity, TimestampTz arrived_at)
{
	for (bool made = false;; made = true)
	{
		GcSpeedLeaf *leaves;
		int			count = gc_speed_leaves(entity->speed, &leaves);

		for (int i = count - 1; i >= 0; i--)
			if (leaves[i].lower <= arrived_at && arrived_at < leaves[i].upper)
				return table_open(leaves[i].relid, RowExclusiveLock);
		if (made)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("entity \"%s.%s\" has no partition for records that arrive at %s",
							entity->schema, entity->name, gc_timestamp_literal(arrived_at)),
					 errdetail("The clock stands before partitions that have been dropped already."),
					 errhint("Correct the server's clock.")));
		gc_speed_leaves_ensure(entity, arrived_at + 1);
	}
}

GcRows *
gc_rows_create(const GcEntity *entity, const GcMappingSpec *spec)
{
	GcRows	   *rows = palloc0(sizeof(GcRows));

	rows->entity = entity;
	rows->spec = spec;
	rows->context = AllocSetContextCreate(CurrentMemoryContext, "guest_context rows", ALLOCSET_DEFAULT_SIZES);
	return rows;
}

int64
gc_rows_failed(const GcRows *rows)
{
	return rows->failed;
}

int64
gc_rows_left_out(const GcRows *rows)
{
	return rows->left_out_before;
}

/*
 * As the owner, and discreetly
 */

/* The error of a row whose values must not be told to everybody. */
static void
hide_values(const GcRows *rows, ErrorData *error)
{
	const GcEntity *entity = rows->entity;

	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:	/* the message quotes the value */
			error->detail = error->detail == NULL ? error->message :
				psprintf("%s\n%s", error->message, error->detail);
			error->detail_log = pstrdup(GC_NOT_LOGGED);
			if (rows->column == NULL)
				error->message = psprintf("cannot store a record of entity \"%s.%s\"",
										  entity->schema, entity->name);
			else
			{
				error->message = psprintf("cannot store a record of entity \"%s.%s\": its value for column \"%s\" is not valid",
										  entity->schema, entity->name, rows->column);
				error->schema_name = get_namespace_name(RelationGetNamespace(rows->leaf));
				error->table_name = pstrdup(RelationGetRelationName(rows->leaf));
				error->column_name = pstrdup(rows->column);
			}
			error->context = NULL;
			break;
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:	/* the detail quotes the row */
			error->detail = error->detail_log = NULL;
			error->context = NULL;
			break;
		default:				/* what a trigger says of itself */
			break;
	}
}

/* What is said meanwhile and is not caught: a trigger's NOTICE, the end of the session. */
static void
hide_context(void *arg)
{
	errhidestmt(true);
	errhidecontext(true);
}

typedef void (*Step) (GcRows *rows, const void *arg);

static void
guarded(GcRows *rows, Step step, const void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorContextCallback context = {.callback = hide_context};
	int			level = NewGUCNestLevel();	/* what a trigger sets does not outlive it */
	Oid			save_user;
	int			save_context;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(rows->entity->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	rows->failed = 0;
	rows->column = NULL;
	PG_TRY();
	{
		/* nothing else: what is outside is added when the error is made anew */
		error_context_stack = &context;
		step(rows, arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		hide_values(rows, error);
		rows->failed = rows->number;
		ThrowErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	SetUserIdAndSecContext(save_user, save_context);
	AtEOXact_GUC(false, level);
}

/*
 * Opening
 */

/* What a column gets that a row has no value for; NULL = nothing. */
static ExprState *
prepare_default(GcRows *rows, int att)
{
	Node	   *expression = build_column_default(rows->leaf, att + 1);

	return expression == NULL ? NULL : ExecPrepareExpr((Expr *) expression, rows->estate);
}

/* Columns that the owner has added get what an INSERT gives them that does not name them. */
static void
prepare_others(GcRows *rows)
{
	TupleDesc	desc = RelationGetDescr(rows->leaf);
	Bitmapset  *known = NULL;

	for (int i = 0; i < OWN_COLUMNS; i++)
		known = bms_add_member(known, rows->own[i]);
	for (int i = 0; i < rows->spec->ncolumns; i++)
		known = bms_add_member(known, rows->columns[i].att);
	rows->others = palloc(sizeof(OtherColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		OtherColumn other = {i};

		if (att->attisdropped || att->attgenerated != '\0' || bms_is_member(i, known))
			continue;
		other.value = prepare_default(rows, i);
		if (other.value != NULL)
			rows->others[rows->nothers++] = other;
	}
	bms_free(known);
	rows->generated = desc->constr != NULL && desc->constr->has_generated_stored;
}

static void
prepare_columns(GcRows *rows)
{
	TupleDesc	desc = RelationGetDescr(rows->leaf);
	int			ncolumns = rows->spec->ncolumns;

	gc_entity_check_columns(rows->entity);	/* a leaf has all that its root has */
	for (int i = 0; i < OWN_COLUMNS; i++)
		rows->own[i] = get_attnum(RelationGetRelid(rows->leaf), own_names[i]) - 1;
	rows->columns = palloc0(sizeof(Column) * ncolumns);
	for (int i = 0; i < ncolumns; i++)
	{
		Column	   *column = &rows->columns[i];
		Form_pg_attribute att;
		Oid			function;

		column->name = rows->spec->columns[i].name;
		column->att = get_attnum(RelationGetRelid(rows->leaf), column->name) - 1;
		att = TupleDescAttr(desc, column->att);
		getTypeInputInfo(att->atttypid, &function, &column->ioparam);
		fmgr_info(function, &column->input);
		column->typmod = att->atttypmod;
		if (rows->spec->columns[i].is_version)
		{
			rows->version_att = column->att;
			column->is_version = att->atttypid == TIMESTAMPTZOID && att->atttypmod < 0;
		}
		if (att->atthasdef)
			column->missing = prepare_default(rows, column->att);
	}
	prepare_others(rows);
}

static void
prepare_indexes(GcRows *rows)
{
	ExecOpenIndices(rows->target, false);
	rows->entries = palloc0(sizeof(Entries) * Max(rows->target->ri_NumIndices, 1));
	rows->plain_indexes = true;
	for (int i = 0; i < rows->target->ri_NumIndices; i++)
	{
		IndexInfo  *info = rows->target->ri_IndexRelationInfo[i];

		if (info->ii_Unique || info->ii_ExclusionOps != NULL || info->ii_Predicate != NIL || info->ii_Expressions != NIL)
			rows->plain_indexes = false;
	}
}

static void
open_step(GcRows *rows, const void *arg)
{
	TriggerDesc *triggers;

	MemoryContextSwitchTo(rows->context);
	rows->values = AllocSetContextCreate(rows->context, "guest_context row values", ALLOCSET_DEFAULT_SIZES);
	rows->entry_context = AllocSetContextCreate(rows->context, "guest_context index entries", ALLOCSET_DEFAULT_SIZES);
	rows->leaf = open_leaf(rows->entity, rows->arrived_at);
	rows->estate = CreateExecutorState();
	rows->target = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->target, rows->leaf, 0, NULL, 0);
	rows->estate->es_opened_result_relations = list_make1(rows->target);
	rows->estate->es_output_cid = GetCurrentCommandId(true);
	rows->bulk = GetBulkInsertState();
	rows->purged = gc_purged_read(rows->entity->entity_id);
	prepare_columns(rows);
	prepare_indexes(rows);
	triggers = rows->target->ri_TrigDesc;
	if (triggers == NULL)
		return;
	rows->one_by_one = triggers->trig_insert_before_row;
	AfterTriggerBeginQuery();
	rows->capture = MakeTransitionCaptureState(triggers, RelationGetRelid(rows->leaf), CMD_INSERT);
	ExecBSInsertTriggers(rows->estate, rows->target);
}

void
gc_rows_open(GcRows *rows, TimestampTz arrived_at)
{
	const GcEntity *entity = rows->entity;
	const GcMappingSpec *spec = rows->spec;
	MemoryContext context = rows->context;
	int64		left_out = rows->left_out_before;

	MemoryContextReset(context);
	memset(rows, 0, sizeof(GcRows));
	rows->left_out_before = left_out;
	rows->entity = entity;
	rows->spec = spec;
	rows->context = context;
	rows->arrived_at = arrived_at;
	guarded(rows, open_step, NULL);
}

/*
 * Index entries
 */

/* Those that are alike in the order of their records, which is that of the heap. */
static inline int
compare_entries(const Entry *one, const Entry *other)
{
	if (one->head != other->head)
		return one->head < other->head ? -1 : 1;
	return one->number < other->number ? -1 : one->number > other->number;
}

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE Entry
#define ST_COMPARE(a, b) compare_entries(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* The bytes of an entry's first column, NULL for a NULL; *len of them. */
static const uint8 *
bytes_of(const Entry *entry, Relation index, size_t *len)
{
	TupleDesc	desc = RelationGetDescr(index);
	Form_pg_attribute att = TupleDescAttr(desc, 0);
	bool		isnull;
	Datum		value = index_getattr(entry->tuple, 1, desc, &isnull);

	*len = 0;
	if (isnull)
		return NULL;
	if (att->attlen == -1)
	{
		*len = VARATT_IS_COMPRESSED(DatumGetPointer(value)) ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(value));
		return (const uint8 *) VARDATA_ANY(DatumGetPointer(value));
	}
	*len = att->attlen == -2 ? strlen(DatumGetCString(value)) : att->attlen;
	return (const uint8 *) DatumGetPointer(value);
}

/* What entries are sorted by: a number as it is, else eight bytes behind those that all of them begin with. */
static void
set_heads(Entries *entries, Relation index)
{
	TupleDesc	desc = RelationGetDescr(index);
	size_t		common = SIZE_MAX;
	const uint8 *first = NULL;

	if (TupleDescAttr(desc, 0)->attbyval)
	{
		for (int i = 0; i < entries->count; i++)
		{
			bool		isnull;
			Datum		value = index_getattr(entries->of[i].tuple, 1, desc, &isnull);

			entries->of[i].head = isnull ? PG_UINT64_MAX : (uint64) value ^ UINT64CONST(0x8000000000000000);
		}
		return;
	}
	for (int i = 0; i < entries->count && common > 0; i++)
	{
		size_t		len;
		const uint8 *bytes = bytes_of(&entries->of[i], index, &len);

		if (bytes == NULL)
			continue;
		if (first == NULL)
		{
			first = bytes;
			common = len;
			continue;
		}
		for (size_t j = 0; j < common; j++)
			if (j == len || bytes[j] != first[j])
				common = j;
	}
	for (int i = 0; i < entries->count; i++)
	{
		size_t		len;
		const uint8 *bytes = bytes_of(&entries->of[i], index, &len);
		uint64		head = bytes == NULL ? PG_UINT64_MAX : 0;

		for (size_t j = 0; bytes != NULL && j < sizeof(head); j++)
			head = head << 8 | (common + j < len ? bytes[common + j] : 0);
		entries->of[i].head = head;
	}
}

/* Into the indexes, each in its order. */
static void
insert_entries(GcRows *rows)
{
	for (int i = 0; i < rows->target->ri_NumIndices; i++)
	{
		Entries    *entries = &rows->entries[i];
		Relation	index = rows->target->ri_IndexRelationDescs[i];

		if (entries->count == 0)
			continue;
		set_heads(entries, index);
		sort_entries(entries->of, entries->count);
		for (int j = 0; j < entries->count; j++)
		{
			Entry	   *entry = &entries->of[j];
			Datum		values[INDEX_MAX_KEYS];
			bool		isnull[INDEX_MAX_KEYS];

			CHECK_FOR_INTERRUPTS();
			if (j + AHEAD < entries->count)
				__builtin_prefetch(entries->of[j + AHEAD].tuple);
			if (j % ROWS_AT_ONCE == 0 && gc_rows_meanwhile != NULL)
				gc_rows_meanwhile();
			rows->number = entry->number;
			index_deform_tuple(entry->tuple, RelationGetDescr(index), values, isnull);
			index_insert(index, values, isnull, &entry->tuple->t_tid, rows->leaf, UNIQUE_CHECK_NO, false,
						 rows->target->ri_IndexRelationInfo[i]);
		}
		entries->count = entries->room = 0;
	}
	MemoryContextReset(rows->entry_context);
	rows->entries_bytes = 0;
}

static void
keep_entry(GcRows *rows, int i, Datum *values, bool *isnull, ItemPointer tid, int64 number)
{
	Entries    *entries = &rows->entries[i];
	MemoryContext caller = MemoryContextSwitchTo(rows->entry_context);
	Entry	   *entry;

	if (entries->count == entries->room)
	{
		entries->room = Max(64, entries->room * 2);
		entries->of = entries->count == 0 ? palloc(sizeof(Entry) * entries->room) :
			repalloc_huge(entries->of, sizeof(Entry) * entries->room);
	}
	entry = &entries->of[entries->count++];
	entry->tuple = index_form_tuple(RelationGetDescr(rows->target->ri_IndexRelationDescs[i]), values, isnull);
	entry->tuple->t_tid = *tid;
	entry->number = number;
	rows->entries_bytes += sizeof(Entry) + IndexTupleSize(entry->tuple);
	MemoryContextSwitchTo(caller);
}

/* The entries of a row that is in the heap: a B-tree's are kept until there are many. */
static void
index_row(GcRows *rows, TupleTableSlot *slot, int64 number)
{
	ResultRelInfo *target = rows->target;
	List	   *recheck = NIL;

	rows->number = number;
	if (!rows->plain_indexes)
		recheck = gc_insert_index_tuples(target, slot, rows->estate);
	else
		for (int i = 0; i < target->ri_NumIndices; i++)
		{
			Relation	index = target->ri_IndexRelationDescs[i];
			Datum		values[INDEX_MAX_KEYS];
			bool		isnull[INDEX_MAX_KEYS];

			if (!target->ri_IndexRelationInfo[i]->ii_ReadyForInserts)
				continue;
			FormIndexDatum(target->ri_IndexRelationInfo[i], slot, rows->estate, values, isnull);
			if (index->rd_rel->relam == BTREE_AM_OID)
				keep_entry(rows, i, values, isnull, &slot->tts_tid, number);
			else
				index_insert(index, values, isnull, &slot->tts_tid, rows->leaf, UNIQUE_CHECK_NO, false,
							 target->ri_IndexRelationInfo[i]);
		}
	if (target->ri_TrigDesc != NULL)
		ExecARInsertTriggers(rows->estate, target, slot, recheck, rows->capture);
	list_free(recheck);
}

/*
 * Rows
 */

/* Into the heap. */
static void
insert_rows(GcRows *rows)
{
	if (rows->nslots == 0)
		return;
	rows->number = rows->nslots == 1 ? rows->numbers[0] : 0;
	table_multi_insert(rows->leaf, rows->slots, rows->nslots, rows->estate->es_output_cid, 0, rows->bulk);
	for (int i = 0; i < rows->nslots; i++)
	{
		MemoryContextSwitchTo(rows->values);
		index_row(rows, rows->slots[i], rows->numbers[i]);
		ExecClearTuple(rows->slots[i]);
	}
	rows->nslots = 0;
	rows->bytes = 0;
	MemoryContextReset(rows->values);
	if (rows->entries_bytes >= ENTRIES_BYTES || rows->one_by_one)
		insert_entries(rows);
	if (gc_rows_meanwhile != NULL)
		gc_rows_meanwhile();
}

static TupleTableSlot *
slot_at(GcRows *rows, int i)
{
	if (rows->slots[i] == NULL)
	{
		MemoryContextSwitchTo(rows->context);
		rows->slots[i] = table_slot_create(rows->leaf, &rows->estate->es_tupleTable);
	}
	return rows->slots[i];
}

static void
reserve_step(GcRows *rows, const void *arg)
{
	for (int i = 0; i < ROWS_AT_ONCE; i++)
		(void) slot_at(rows, i);
}

/* Slots belong to the transaction that makes them. */
bool
gc_rows_reserve(GcRows *rows)
{
	if (rows->one_by_one)
		return false;
	guarded(rows, reserve_step, NULL);
	return true;
}

bool
gc_rows_full(const GcRows *rows)
{
	return rows->nslots == ROWS_AT_ONCE || rows->bytes >= BYTES_AT_ONCE;
}

static void
write_step(GcRows *rows, const void *arg)
{
	insert_rows(rows);
}

void
gc_rows_write(GcRows *rows)
{
	guarded(rows, write_step, NULL);
}

typedef struct Row
{
	const GcField *fields;
	TimestampTz version;
	bool		tombstone;
	int32		source;
	int32		partition;
	int64		offset;
	int64		number;
} Row;

static void
fill_slot(GcRows *rows, TupleTableSlot *slot, const Row *row)
{
	Datum	   *values = slot->tts_values;

	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	values[rows->own[OWN_ARRIVED_AT]] = TimestampTzGetDatum(rows->arrived_at);
	values[rows->own[OWN_OFFSET]] = Int64GetDatum(row->offset);
	values[rows->own[OWN_DATASET]] = Int32GetDatum(0);
	values[rows->own[OWN_SOURCE]] = Int32GetDatum(row->source);
	values[rows->own[OWN_PARTITION]] = Int32GetDatum(row->partition);
	values[rows->own[OWN_DELETED]] = BoolGetDatum(row->tombstone);
	for (int i = 0; i < OWN_COLUMNS; i++)
		slot->tts_isnull[rows->own[i]] = false;
	for (int i = 0; i < rows->spec->ncolumns; i++)
	{
		Column	   *column = &rows->columns[i];
		const GcField *field = &row->fields[i];

		rows->column = column->name;
		if (field->state == GC_FIELD_ABSENT && !row->tombstone && column->missing != NULL)
		{
			rows->column = NULL;
			values[column->att] = ExecEvalExpr(column->missing, GetPerTupleExprContext(rows->estate), &slot->tts_isnull[column->att]);
			continue;
		}
		/* a domain may say something about a NULL too */
		slot->tts_isnull[column->att] = field->state != GC_FIELD_TEXT;
		values[column->att] = column->is_version ? TimestampTzGetDatum(row->version) :
			InputFunctionCall(&column->input, field->state == GC_FIELD_TEXT ? field->text : NULL,
							  column->ioparam, column->typmod);
		rows->bytes += field->state == GC_FIELD_TEXT ? field->len : 0;
	}
	rows->column = NULL;
	for (int i = 0; i < rows->nothers; i++)
	{
		const OtherColumn *other = &rows->others[i];

		values[other->att] = ExecEvalExpr(other->value, GetPerTupleExprContext(rows->estate), &slot->tts_isnull[other->att]);
	}
}

static void
add_step(GcRows *rows, const void *arg)
{
	const Row  *row = arg;
	ResultRelInfo *target = rows->target;
	TupleTableSlot *slot;

	if (gc_rows_full(rows))
		insert_rows(rows);
	slot = slot_at(rows, rows->nslots);
	rows->number = row->number;
	MemoryContextSwitchTo(rows->values);
	ResetPerTupleExprContext(rows->estate);
	ExecClearTuple(slot);		/* a trigger did not want what was in it */
	fill_slot(rows, slot, row);
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(rows->leaf);
	if (rows->one_by_one)
	{
		if (!ExecBRInsertTriggers(rows->estate, target, slot))
			return;				/* it wants none */
		ExecPartitionCheck(target, slot, rows->estate, true);
	}
	if (rows->purged != NIL && gc_purged_is(rows->entity, rows->purged, slot, rows->version_att + 1))
	{
		rows->left_out++;
		return;
	}
	if (rows->generated)
		ExecComputeStoredGenerated(target, rows->estate, slot, CMD_INSERT);
	if (rows->leaf->rd_att->constr != NULL)
		ExecConstraints(target, slot, rows->estate);
	rows->numbers[rows->nslots++] = row->number;
	if (rows->one_by_one)
		insert_rows(rows);
}

void
gc_rows_add(GcRows *rows, const GcField *fields, int64 version_us, bool tombstone, int32 source, int32 partition,
			int64 offset, int64 number)
{
	Row			row = {fields, version_us - GC_UNIX_EPOCH_US, tombstone, source, partition, offset, number};

	guarded(rows, add_step, &row);
}

static void
close_step(GcRows *rows, const void *arg)
{
	insert_rows(rows);
	insert_entries(rows);
	rows->number = 0;			/* triggers that fire now may be about any of them */
	if (rows->target->ri_TrigDesc != NULL)
	{
		ExecASInsertTriggers(rows->estate, rows->target, rows->capture);
		AfterTriggerEndQuery(rows->estate);
	}
	FreeBulkInsertState(rows->bulk);
	ExecCloseIndices(rows->target);
	ExecResetTupleTable(rows->estate->es_tupleTable, false);
	FreeExecutorState(rows->estate);
	table_close(rows->leaf, NoLock);
	rows->leaf = NULL;
}

void
gc_rows_close(GcRows *rows)
{
	guarded(rows, close_step, NULL);
	MemoryContextReset(rows->context);
	rows->left_out_before += rows->left_out;
}
