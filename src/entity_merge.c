/*
 * entity_merge.c: the aggregate entity_merge(value, version [, tiebreak]), the
 * newest value of a group.
 *
 * What it is for.  It is the rule of merging, "newest version wins", for data
 * that is no entity of ours: any query, any type.  The same records give the
 * same answer in any order, cut into any parts and with any repetitions.  That
 * holds because a row replaces the state only when it is greater in one total
 * order, so that the state is a maximum, and a maximum is associative,
 * commutative and idempotent.
 *
 * The order, most significant first:
 *
 *	1.	version; infinity and -infinity are versions like others.  A row without
 *		a version is no version of anything and is left out.
 *	2.	tiebreak, NULL below every number; a row with a known place beats one
 *		without.
 *	3.	the value by the default btree operator class of its type, where it has
 *		one, in the collation of the call.  NULL lies below every value.
 *	4.	the value's stored bytes, for types without such a class (json, xml,
 *		point) and for values that it holds equal though they are not the same
 *		(1.0 and 1.00).  It is the order of *< on rows, which the server uses to
 *		tell rows apart to the bit, and needs no setting of the session, as
 *		the output functions of dates and floating-point numbers would.
 *
 * A NULL value with a version is a state like others: when it is the newest,
 * the answer is NULL.  Without any row the answer is NULL too.
 *
 * Who calls it.  The executor, through sql/60_entity_merge.sql; in a parallel
 * plan the states of the workers come through serialize and deserialize.
 *
 * Memory.  The state and its value live in the aggregate's context and are
 * replaced there.  The value is always a flat, detoasted copy: a TOAST pointer
 * or an expanded object may be gone before the group is finished.  Rows
 * that lose by version alone are never detoasted.
 *
 * Fails when the comparison of two values of equal version fails, which is
 * possible with anonymous rows of different columns only.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "aggregate.h"
#include "compat.h"

/* One version of an entity: what a row brings, and what the state keeps. */
typedef struct GcVersion
{
	Oid			type;			/* of the value; combine is not told otherwise */
	TimestampTz version;
	bool		has_tiebreak;
	int64		tiebreak;		/* 0 without one */
	bool		isnull;
	Datum		value;
} GcVersion;

/* What is known of the value's type, kept in fn_extra. */
typedef struct GcVersionType
{
	TypeCacheEntry *entry;
	bool		ordered;		/* use entry's comparison */
	bool		is_row;
	FmgrInfo	compare_row_bytes;
} GcVersionType;

PG_FUNCTION_INFO_V1(gc_entity_merge_step);
PG_FUNCTION_INFO_V1(gc_entity_merge_combine);
PG_FUNCTION_INFO_V1(gc_entity_merge_serialize);
PG_FUNCTION_INFO_V1(gc_entity_merge_deserialize);
PG_FUNCTION_INFO_V1(gc_entity_merge_final);

/* Looks a type up, once per call site. */
static GcVersionType *
version_type(FunctionCallInfo fcinfo, Oid type)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	GcVersionType *result = flinfo->fn_extra;

	if (result == NULL)
	{
		result = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(GcVersionType));
		result->entry = lookup_type_cache(type, TYPECACHE_CMP_PROC_FINFO);

		/*
		 * The type cache vouches for the columns of named row types.  Those of
		 * an anonymous row it cannot see: they may have no order, which would
		 * come out as an ERROR at the first tie.
		 */
		result->ordered = OidIsValid(result->entry->cmp_proc) && type != RECORDOID;
		result->is_row = type_is_rowtype(type);
		if (result->is_row)
			fmgr_info_cxt(F_BTRECORDIMAGECMP, &result->compare_row_bytes, flinfo->fn_mcxt);
		flinfo->fn_extra = result;
	}
	return result;
}

/* Compares two values as they are stored, toasting undone. */
static int
compare_bytes(GcVersionType *type, Datum a, Datum b)
{
	int16		typlen = type->entry->typlen;

	if (type->entry->typbyval)
		return a < b ? -1 : a > b;
	if (type->is_row)
		return DatumGetInt32(FunctionCall2(&type->compare_row_bytes, a, b));
	if (typlen == -1)
	{
		struct varlena *left = PG_DETOAST_DATUM_PACKED(a);
		struct varlena *right = PG_DETOAST_DATUM_PACKED(b);
		Size		left_size = VARSIZE_ANY_EXHDR(left);
		Size		right_size = VARSIZE_ANY_EXHDR(right);
		int			result = memcmp(VARDATA_ANY(left), VARDATA_ANY(right), Min(left_size, right_size));

		if (result == 0 && left_size != right_size)
			result = left_size < right_size ? -1 : 1;
		if ((Pointer) left != DatumGetPointer(a))
			pfree(left);
		if ((Pointer) right != DatumGetPointer(b))
			pfree(right);
		return result;
	}
	if (typlen == -2)
		return strcmp(DatumGetCString(a), DatumGetCString(b));
	return memcmp(DatumGetPointer(a), DatumGetPointer(b), typlen);
}

/* Does a come after b in the order described above? */
static bool
is_newer(GcVersionType *type, Oid collation, const GcVersion *a, const GcVersion *b)
{
	int			result = 0;

	if (a->version != b->version)
		return a->version > b->version;
	if (a->has_tiebreak != b->has_tiebreak)
		return a->has_tiebreak;
	if (a->tiebreak != b->tiebreak)
		return a->tiebreak > b->tiebreak;
	if (a->isnull || b->isnull)
		return !a->isnull && b->isnull;
	if (type->ordered)
		result = DatumGetInt32(FunctionCall2Coll(&type->entry->cmp_proc_finfo, collation,
												 a->value, b->value));
	if (result == 0)
		result = compare_bytes(type, a->value, b->value);
	return result > 0;
}

/*
 * Merges one more version into the state, which may be NULL: the one place
 * where an entity's version wins or loses.  Returns the state, in `context`.
 */
static GcVersion *
merge(FunctionCallInfo fcinfo, MemoryContext context, GcVersion *state, const GcVersion *version)
{
	GcVersionType *type = version_type(fcinfo, version->type);
	TypeCacheEntry *entry = type->entry;
	MemoryContext caller;
	Oid			collation = PG_GET_COLLATION();

	/* columns of different collations leave none; any order will do, an ERROR won't */
	if (!OidIsValid(collation))
		collation = C_COLLATION_OID;
	if (state && !is_newer(type, collation, version, state))
		return state;

	caller = MemoryContextSwitchTo(context);
	if (state == NULL)
		state = palloc(sizeof(GcVersion));
	else if (!state->isnull && !entry->typbyval)
		pfree(DatumGetPointer(state->value));
	*state = *version;
	if (!version->isnull && entry->typlen == -1)
		state->value = PointerGetDatum(PG_DETOAST_DATUM_COPY(version->value));
	else if (!version->isnull)
		state->value = datumCopy(version->value, entry->typbyval, entry->typlen);
	MemoryContextSwitchTo(caller);
	return state;
}

static GcVersion *
get_state(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : (GcVersion *) PG_GETARG_POINTER(arg);
}

static Datum
return_state(FunctionCallInfo fcinfo, GcVersion *state)
{
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/* _entity_merge_step(state, value, version [, tiebreak]) */
Datum
gc_entity_merge_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = gc_aggregate_context(fcinfo);
	GcVersion  *state = get_state(fcinfo, 0);
	GcVersion	row = {0};

	if (PG_ARGISNULL(2))
		return return_state(fcinfo, state);
	row.type = get_fn_expr_argtype(fcinfo->flinfo, 1);
	row.isnull = PG_ARGISNULL(1);
	row.value = row.isnull ? (Datum) 0 : PG_GETARG_DATUM(1);
	row.version = PG_GETARG_TIMESTAMPTZ(2);
	row.has_tiebreak = PG_NARGS() > 3 && !PG_ARGISNULL(3);
	row.tiebreak = row.has_tiebreak ? PG_GETARG_INT64(3) : 0;
	return return_state(fcinfo, merge(fcinfo, context, state, &row));
}

/* _entity_merge_combine(state, state) */
Datum
gc_entity_merge_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = gc_aggregate_context(fcinfo);
	GcVersion  *state = get_state(fcinfo, 0);
	GcVersion  *other = get_state(fcinfo, 1);

	if (other)
		state = merge(fcinfo, context, state, other);
	return return_state(fcinfo, state);
}

/*
 * _entity_merge_serialize(state): how a parallel worker hands its state over.
 * The type goes by its OID and the value by its bytes, those of anonymous rows
 * too: leader and workers are in one database and share what they know of row
 * types.
 */
Datum
gc_entity_merge_serialize(PG_FUNCTION_ARGS)
{
	GcVersion  *state;
	TypeCacheEntry *entry;
	StringInfoData buf;
	char	   *end;

	gc_aggregate_context(fcinfo);
	state = (GcVersion *) PG_GETARG_POINTER(0);
	entry = version_type(fcinfo, state->type)->entry;

	pq_begintypsend(&buf);
	pq_sendint32(&buf, state->type);
	pq_sendint64(&buf, state->version);
	pq_sendbyte(&buf, state->has_tiebreak);
	pq_sendint64(&buf, state->tiebreak);
	enlargeStringInfo(&buf, datumEstimateSpace(state->value, state->isnull,
											   entry->typbyval, entry->typlen));
	end = buf.data + buf.len;
	datumSerialize(state->value, state->isnull, entry->typbyval, entry->typlen, &end);
	buf.len = end - buf.data;
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* _entity_merge_deserialize(bytea, internal): what serialize wrote, in the caller's context */
Datum
gc_entity_merge_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes;
	GcVersion  *state;
	StringInfoData buf;
	char	   *next;

	gc_aggregate_context(fcinfo);
	bytes = PG_GETARG_BYTEA_PP(0);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));

	state = palloc0(sizeof(GcVersion));
	state->type = pq_getmsgint(&buf, 4);
	state->version = pq_getmsgint64(&buf);
	state->has_tiebreak = pq_getmsgbyte(&buf);
	state->tiebreak = pq_getmsgint64(&buf);
	next = buf.data + buf.cursor;
	state->value = datumRestore(&next, &state->isnull);
	PG_RETURN_POINTER(state);
}

/* _entity_merge_final(state, value, version [, tiebreak]): only the state matters, the value's type is the result's */
Datum
gc_entity_merge_final(PG_FUNCTION_ARGS)
{
	GcVersion  *state;

	gc_aggregate_context(fcinfo);
	state = get_state(fcinfo, 0);
	if (state == NULL || state->isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state->value);
}
