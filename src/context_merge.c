/*
 * context_merge.c: the aggregate context_merge(document), one document out of
 * several versions of it: the Guest Context of a speed and a batch view, say.
 *
 * What it is for.  It is the rule of merging for documents that were put
 * together elsewhere.  The unit is the entity, not the document: everything
 * with a "ref" and a "modifiedAt" is merged with its own other versions alone,
 * so the answer may take the guest from one document and an order from
 * another.  sql/61_context_merge.sql has the rules in the user's words.
 *
 * How.  A document is taken apart into entities, each known by its path from
 * the root: the members that lead to it and the refs of the entities on the
 * way.  The state is a map from path to the newest version seen there, and is
 * turned into a document at the end only, because a tombstone has to beat
 * what arrives after it.  Two things are kept of a place:
 *
 *	- for an entity: version, deleted or not, and its own part, which is the
 *	  object without child entities and without computed totals.  The greatest
 *	  one wins by (version, deleted, own part as text);
 *	- for a member that held an array of entities: that it did.
 *
 * Both are maxima, so merging is associative, commutative and idempotent, and
 * the result, which is a function of the state, has the same bytes for any
 * order, split and repetition.
 *
 * Documents need not agree on what "address" is.  Then an array of entities is
 * shown rather than one entity, that rather than a plain object with entities
 * somewhere below, and that rather than any other value.
 *
 * Who calls it.  The executor, through sql/61_context_merge.sql; in a parallel
 * plan the states of the workers come through serialize and deserialize.
 *
 * Memory.  The state lives in the aggregate's context; paths and own parts are
 * copied there only when they win.  All else is in the caller's context, which
 * the executor resets after every row.
 *
 * Fails on a document that is no entity or of another root, with a ref or
 * version that is none, with entities and other things in one array, or nested
 * too deeply.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "aggregate.h"
#include "common/time_text.h"
#include "compat.h"

/*
 * A path is a list of steps: one byte that says what the step is, a text, and a
 * NUL, which no text of jsonb contains.  The root's path is empty.  In the order
 * of bytes an entity comes right before all that is in it, and of the steps that
 * may follow, members come before refs.
 */
#define STEP_MEMBER	'\001'
#define STEP_REF	'\002'

typedef struct GcPath
{
	const char *bytes;
	int			len;
} GcPath;

/* What is known of one path. */
typedef struct GcContextEntry
{
	GcPath		path;
	int64		version;		/* microseconds since 1970 */
	bool		deleted;
	Jsonb	   *own;			/* NULL: not an entity but a member that held an array of entities */
	uint32		hash;
	char		status;
} GcContextEntry;

static inline bool
same_path(GcPath a, GcPath b)
{
	return a.len == b.len && memcmp(a.bytes, b.bytes, a.len) == 0;
}

#define SH_PREFIX		entries
#define SH_ELEMENT_TYPE	GcContextEntry
#define SH_KEY_TYPE		GcPath
#define SH_KEY			path
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key).bytes, (key).len)
#define SH_EQUAL(tb, a, b)		same_path(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry)	(entry)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The state of one group. */
typedef struct GcContextState
{
	MemoryContext context;
	char	   *root;			/* its ref */
	entries_hash *entries;
} GcContextState;

/* A document that is being taken apart. */
typedef struct GcContextReader
{
	GcContextState *state;
	StringInfoData path;		/* of what is being read */
	int			depth;
} GcContextReader;

/*
 * A part of the state while a document is made of it: entries first <= i < last
 * in the order of their paths, all of which begin with the same `prefix` bytes.
 */
typedef struct GcSpan
{
	GcContextEntry **entries;
	int			first;
	int			last;
	int			prefix;
} GcSpan;

static void read_entity(GcContextReader *reader, JsonbContainer *object,
						JsonbValue *version);
static int	push_places(JsonbParseState **object, JsonbContainer *base, GcSpan span);

PG_FUNCTION_INFO_V1(gc_context_merge_step);
PG_FUNCTION_INFO_V1(gc_context_merge_combine);
PG_FUNCTION_INFO_V1(gc_context_merge_serialize);
PG_FUNCTION_INFO_V1(gc_context_merge_deserialize);
PG_FUNCTION_INFO_V1(gc_context_merge_final);

/* --- the state ---------------------------------------------------------- */

static GcContextState *
new_state(MemoryContext context, const char *root, uint32 nentries)
{
	GcContextState *state = MemoryContextAlloc(context, sizeof(GcContextState));

	state->context = context;
	state->root = MemoryContextStrdup(context, root);
	state->entries = entries_create(context, nentries, NULL);
	return state;
}

/* As much of a text as an error should show. */
static char *
excerpt(const char *text)
{
	int			len = strlen(text);

	return pnstrdup(text, pg_mbcliplen(text, len, Min(len, GC_QUOTE_BYTES)));
}

static void
check_root(const GcContextState *state, const char *root)
{
	if (strcmp(state->root, root) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("documents of different roots cannot be merged"),
				 errdetail("The roots are \"%s\" and \"%s\".", excerpt(state->root), excerpt(root)),
				 errhint("Use GROUP BY document->>'ref'.")));
}

/* Does a come after b in the total order of versions of one entity? */
static bool
is_newer(const GcContextEntry *a, const GcContextEntry *b)
{
	if (a->version != b->version)
		return a->version > b->version;
	if (a->deleted != b->deleted)
		return a->deleted;
	if (a->own == NULL)
		return false;
	if (VARSIZE(a->own) == VARSIZE(b->own) && memcmp(a->own, b->own, VARSIZE(a->own)) == 0)
		return false;			/* the same record again, by far the most frequent tie */
	return strcmp(JsonbToCString(NULL, &a->own->root, VARSIZE(a->own)),
				  JsonbToCString(NULL, &b->own->root, VARSIZE(b->own))) > 0;
}

static void *
copy_bytes(MemoryContext context, const void *bytes, Size len)
{
	return memcpy(MemoryContextAlloc(context, len), bytes, len);
}

/* Takes an entry into the state if it is newer: the one place where that is decided. */
static void
offer(GcContextState *state, const GcContextEntry *offered)
{
	bool		found;
	GcContextEntry *entry = entries_insert(state->entries, offered->path, &found);

	if (found && !is_newer(offered, entry))
		return;
	if (!found)
		entry->path.bytes = copy_bytes(state->context, offered->path.bytes, offered->path.len);
	else if (entry->own)
		pfree(entry->own);
	entry->version = offered->version;
	entry->deleted = offered->deleted;
	entry->own = offered->own ? copy_bytes(state->context, offered->own, VARSIZE(offered->own)) : NULL;
}

/* --- reading a document -------------------------------------------------- */

/* Goes one step down; path.len before it is the way back. */
static void
step_down(GcContextReader *reader, char kind, const char *text, int len)
{
	appendStringInfoChar(&reader->path, kind);
	appendBinaryStringInfo(&reader->path, text, len);
	appendStringInfoChar(&reader->path, '\0');
}

static void
step_back(GcContextReader *reader, int len)
{
	reader->path.len = len;
	reader->path.data[len] = '\0';
}

/* The path for an error message: $.orders[123].items */
static char *
path_text(const GcContextReader *reader)
{
	StringInfoData text;
	const char *step = reader->path.data;

	initStringInfo(&text);
	appendStringInfoChar(&text, '$');
	for (; step < reader->path.data + reader->path.len; step += strlen(step) + 1)
		appendStringInfo(&text, *step == STEP_REF ? "[%s]" : ".%s", excerpt(step + 1));
	return text.data;
}

/* Is it an entity, and what are its ref and version, of whatever JSON type? */
static bool
is_entity(JsonbContainer *object, JsonbValue *ref, JsonbValue *version)
{
	return JsonContainerIsObject(object) &&
		getKeyJsonValueFromContainer(object, "ref", 3, ref) &&
		(getKeyJsonValueFromContainer(object, "modifiedAt", 10, version) ||
		 getKeyJsonValueFromContainer(object, "modified_at", 11, version));
}

/* The text of a string or number; NULL for anything else. */
static char *
scalar_text(const JsonbValue *value)
{
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	return NULL;
}

/* The identity of an entity; 123 and "123" are one. */
static char *
ref_text(GcContextReader *reader, const JsonbValue *ref)
{
	char	   *text = scalar_text(ref);

	if (text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"ref\" is neither a string nor a number"),
				 errdetail("The entity is at %s.", path_text(reader))));
	return text;
}

/* Microseconds since 1970, read as the payloads of changelogs are. */
static int64
version_time(GcContextReader *reader, const JsonbValue *version)
{
	static const GcTimeRule rule = {.unit = GC_UNIT_AUTO};
	char	   *text = scalar_text(version);
	const char *reason = "it is neither a string nor a number";
	bool		range = false;
	int64		us = 0;

	if (text)
		reason = gc_time_parse(text, strlen(text), &rule, GC_KIND_TIMESTAMPTZ, &us, &range);
	if (reason)
		ereport(ERROR,
				(errcode(range ? ERRCODE_DATETIME_FIELD_OVERFLOW : ERRCODE_INVALID_DATETIME_FORMAT),
				 errmsg("\"modifiedAt\" is not a time: %s", reason),
				 errdetail("The entity is at %s.", path_text(reader))));
	return us;
}

/* Members of an entity that hold what was computed over its children. */
static bool
is_computed(const JsonbValue *name)
{
	static const char *const computed[] = {"measures", "totals"};

	for (int i = 0; i < lengthof(computed); i++)
		if (strlen(computed[i]) == name->val.string.len &&
			memcmp(computed[i], name->val.string.val, name->val.string.len) == 0)
			return true;
	return false;
}

/*
 * Is it an array of entities?  With other things among them it is an ERROR:
 * they have no identity to merge by, and leaving out either would be silent loss.
 */
static bool
is_entity_array(GcContextReader *reader, JsonbContainer *array)
{
	int			entities = 0;
	int			elements = JsonContainerSize(array);
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	element;
	JsonbValue	ref;
	JsonbValue	version;

	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM && element.type == jbvBinary &&
			is_entity(element.val.binary.data, &ref, &version))
			entities++;
	if (entities > 0 && entities < elements)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array holds entities and other values"),
				 errdetail("At %s, %d of %d elements have \"ref\" and \"modifiedAt\".",
						   path_text(reader), entities, elements)));
	return entities > 0;
}

/* Adds to the own part that is being built, if one is wanted. */
static void
keep(JsonbParseState **own, JsonbIteratorToken token, JsonbValue *value)
{
	if (own)
		pushJsonbValue(own, token, value);
}

/* Reads an entity that is a child: of an array, or of the member itself. */
static void
read_child(GcContextReader *reader, JsonbContainer *object, JsonbValue *ref, JsonbValue *version)
{
	int			back = reader->path.len;
	char	   *text = ref_text(reader, ref);

	step_down(reader, STEP_REF, text, strlen(text));
	read_entity(reader, object, version);
	step_back(reader, back);
}

static void
read_array(GcContextReader *reader, JsonbContainer *array)
{
	GcContextEntry mark = {.path = {reader->path.data, reader->path.len}};
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	element;
	JsonbValue	ref;
	JsonbValue	version;

	offer(reader->state, &mark);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
		if (token == WJB_ELEM && is_entity(element.val.binary.data, &ref, &version))
			read_child(reader, element.val.binary.data, &ref, &version);
}

/*
 * Reads the members of an entity, or of a plain object in it: child entities
 * go into the state, everything else to the own part.
 */
static void
read_members(GcContextReader *reader, JsonbContainer *object, bool of_entity, JsonbParseState **own)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue	name;
	JsonbValue	value;
	JsonbValue	ref;
	JsonbValue	version;
	int			back = reader->path.len;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (++reader->depth > GC_MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("document is nested too deeply"),
				 errdetail("More than %d objects are in each other.", GC_MAX_DEPTH)));

	JsonbIteratorNext(&it, &name, true);	/* the beginning of the object */
	while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
	{
		JsonbContainer *nested;

		JsonbIteratorNext(&it, &value, true);
		nested = value.type == jbvBinary ? value.val.binary.data : NULL;
		if (of_entity && is_computed(&name))
			continue;
		step_down(reader, STEP_MEMBER, name.val.string.val, name.val.string.len);
		if (nested && is_entity(nested, &ref, &version))
			read_child(reader, nested, &ref, &version);
		else if (nested && JsonContainerIsArray(nested) && is_entity_array(reader, nested))
			read_array(reader, nested);
		else if (nested && JsonContainerIsObject(nested))
		{
			keep(own, WJB_KEY, &name);
			keep(own, WJB_BEGIN_OBJECT, NULL);
			read_members(reader, nested, false, own);
			keep(own, WJB_END_OBJECT, NULL);
		}
		else
		{
			keep(own, WJB_KEY, &name);
			keep(own, WJB_VALUE, &value);
		}
		step_back(reader, back);
	}
	reader->depth--;
}

/* Reads the entity at the reader's path, with everything below it. */
static void
read_entity(GcContextReader *reader, JsonbContainer *object, JsonbValue *version)
{
	GcContextState *state = reader->state;
	GcContextEntry offered = {.path = {reader->path.data, reader->path.len}};
	GcContextEntry *known;
	JsonbParseState *own = NULL;
	JsonbValue	deleted;

	offered.version = version_time(reader, version);
	known = entries_lookup(state->entries, offered.path);
	if (known && known->version > offered.version)
	{
		/* this version has lost; its children have not */
		read_members(reader, object, true, NULL);
		return;
	}
	offered.deleted = getKeyJsonValueFromContainer(object, "deleted", 7, &deleted) &&
		deleted.type == jbvBool && deleted.val.boolean;
	pushJsonbValue(&own, WJB_BEGIN_OBJECT, NULL);
	read_members(reader, object, true, &own);
	offered.own = JsonbValueToJsonb(pushJsonbValue(&own, WJB_END_OBJECT, NULL));
	offered.path.bytes = reader->path.data; /* may have moved */
	offer(state, &offered);
}

/* --- writing a document -------------------------------------------------- */

static int
compare_entries(const void *a, const void *b)
{
	const GcPath *left = &(*(GcContextEntry *const *) a)->path;
	const GcPath *right = &(*(GcContextEntry *const *) b)->path;
	int			result = memcmp(left->bytes, right->bytes, Min(left->len, right->len));

	return result != 0 ? result : left->len - right->len;
}

/*
 * Splits off the beginning of `rest`: the entries that have their next step in
 * common.  False at the end, and before a step of another kind.
 */
static bool
next_group(char kind, GcSpan *rest, GcSpan *group)
{
	const char *bytes;
	int			last;

	if (rest->first >= rest->last)
		return false;
	bytes = rest->entries[rest->first]->path.bytes;
	if (bytes[rest->prefix] != kind)
		return false;
	group->entries = rest->entries;
	group->first = rest->first;
	group->prefix = rest->prefix + strlen(bytes + rest->prefix) + 1;
	for (last = rest->first + 1; last < rest->last; last++)
	{
		const GcPath *path = &rest->entries[last]->path;

		if (path->len < group->prefix ||
			memcmp(path->bytes + rest->prefix, bytes + rest->prefix, group->prefix - rest->prefix) != 0)
			break;
	}
	group->last = rest->first = last;
	return true;
}

static JsonbValue *
string_value(JsonbValue *value, const char *text)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, text);
	value->val.string.len = strlen(text);
	return value;
}

/* The entity that is the first entry of the span, with the living children after it. */
static JsonbValue *
entity_value(GcSpan span)
{
	JsonbParseState *object = NULL;
	Jsonb	   *own = span.entries[span.first]->own;

	span.first++;
	pushJsonbValue(&object, WJB_BEGIN_OBJECT, NULL);
	push_places(&object, &own->root, span);
	return pushJsonbValue(&object, WJB_END_OBJECT, NULL);
}

/*
 * What a member shows that holds entities, or has them below it; `base` is
 * what it is in the own part around it, or NULL.  NULL when no entity shows.
 */
static JsonbValue *
place_value(JsonbValue *base, GcSpan place)
{
	GcContextEntry **entries = place.entries;
	JsonbParseState *result = NULL;
	bool		is_array = entries[place.first]->path.len == place.prefix;
	GcSpan		inner = place;
	GcSpan		newest = {0};
	GcSpan		group;

	/* after the mark of an array, plain objects come first, then entities */
	inner.first += is_array;
	place = inner;
	while (next_group(STEP_MEMBER, &place, &group))
		;
	inner.last = place.first;

	if (is_array)
		pushJsonbValue(&result, WJB_BEGIN_ARRAY, NULL);
	while (next_group(STEP_REF, &place, &group))
	{
		if (newest.last == 0 || is_newer(entries[group.first], entries[newest.first]))
			newest = group;
		if (is_array && !entries[group.first]->deleted)
			pushJsonbValue(&result, WJB_ELEM, entity_value(group));
	}
	if (is_array)
		return pushJsonbValue(&result, WJB_END_ARRAY, NULL);
	if (newest.last > 0 && !entries[newest.first]->deleted)
		return entity_value(newest);

	if (base && !(base->type == jbvBinary && JsonContainerIsObject(base->val.binary.data)))
		base = NULL;
	pushJsonbValue(&result, WJB_BEGIN_OBJECT, NULL);
	if (push_places(&result, base ? base->val.binary.data : NULL, inner) == 0)
		return NULL;
	return pushJsonbValue(&result, WJB_END_OBJECT, NULL);
}

/*
 * Adds to an object the members of `base`, which may be NULL, and in their
 * place or beside them what is in `span`.  Returns how many of the latter there are.
 */
static int
push_places(JsonbParseState **object, JsonbContainer *base, GcSpan span)
{
	JsonbValue	name;
	JsonbValue	value;
	GcSpan		place;
	int			shown = 0;

	check_stack_depth();
	if (base)
	{
		JsonbIterator *it = JsonbIteratorInit(base);

		JsonbIteratorNext(&it, &name, true);	/* the beginning of the object */
		while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
		{
			JsonbIteratorNext(&it, &value, true);
			pushJsonbValue(object, WJB_KEY, &name);
			pushJsonbValue(object, WJB_VALUE, &value);
		}
	}
	/* of equal names the last one pushed stays */
	while (next_group(STEP_MEMBER, &span, &place))
	{
		const char *text = place.entries[place.first]->path.bytes + span.prefix + 1;
		JsonbValue *old = base ? getKeyJsonValueFromContainer(base, text, strlen(text), &value) : NULL;
		JsonbValue *new = place_value(old, place);

		if (new)
		{
			pushJsonbValue(object, WJB_KEY, string_value(&name, text));
			pushJsonbValue(object, WJB_VALUE, new);
			shown++;
		}
	}
	return shown;
}

/* --- what the executor calls --------------------------------------------- */

static GcContextState *
get_state(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : (GcContextState *) PG_GETARG_POINTER(arg);
}

static Datum
return_state(FunctionCallInfo fcinfo, GcContextState *state)
{
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/* _context_merge_step(state, document) */
Datum
gc_context_merge_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = gc_aggregate_context(fcinfo);
	GcContextReader reader = {.state = get_state(fcinfo, 0)};
	Jsonb	   *document;
	JsonbValue	ref;
	JsonbValue	version;
	char	   *root;

	if (PG_ARGISNULL(1))
		return return_state(fcinfo, reader.state);
	document = PG_GETARG_JSONB_P(1);
	if (!is_entity(&document->root, &ref, &version))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("document is not an entity"),
				 errdetail("An entity is an object with \"ref\" and \"modifiedAt\".")));
	initStringInfo(&reader.path);
	root = ref_text(&reader, &ref);
	if (reader.state == NULL)
		reader.state = new_state(context, root, 8);
	check_root(reader.state, root);
	read_entity(&reader, &document->root, &version);
	return return_state(fcinfo, reader.state);
}

/* _context_merge_combine(state, state) */
Datum
gc_context_merge_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = gc_aggregate_context(fcinfo);
	GcContextState *state = get_state(fcinfo, 0);
	GcContextState *other = get_state(fcinfo, 1);
	GcContextEntry *entry;
	entries_iterator it;

	if (other == NULL)
		return return_state(fcinfo, state);
	if (state == NULL)
		state = new_state(context, other->root, other->entries->members);
	check_root(state, other->root);
	entries_start_iterate(other->entries, &it);
	while ((entry = entries_iterate(other->entries, &it)) != NULL)
		offer(state, entry);
	return return_state(fcinfo, state);
}

static void
send_bytes(StringInfo buf, const void *bytes, int len)
{
	pq_sendint32(buf, len);
	if (len > 0)
		pq_sendbytes(buf, bytes, len);
}

/* _context_merge_serialize(state): how a parallel worker hands its state over */
Datum
gc_context_merge_serialize(PG_FUNCTION_ARGS)
{
	GcContextState *state;
	GcContextEntry *entry;
	entries_iterator it;
	StringInfoData buf;

	gc_aggregate_context(fcinfo);
	state = (GcContextState *) PG_GETARG_POINTER(0);
	pq_begintypsend(&buf);
	send_bytes(&buf, state->root, strlen(state->root) + 1);
	pq_sendint32(&buf, state->entries->members);
	entries_start_iterate(state->entries, &it);
	while ((entry = entries_iterate(state->entries, &it)) != NULL)
	{
		send_bytes(&buf, entry->path.bytes, entry->path.len);
		pq_sendint64(&buf, entry->version);
		pq_sendbyte(&buf, entry->deleted);
		send_bytes(&buf, entry->own, entry->own ? VARSIZE(entry->own) : 0);
	}
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* _context_merge_deserialize(bytea, internal): what serialize wrote, in the caller's context */
Datum
gc_context_merge_deserialize(PG_FUNCTION_ARGS)
{
	GcContextState *state;
	bytea	   *bytes;
	const char *root;
	StringInfoData buf;
	int			len;
	int			nentries;

	gc_aggregate_context(fcinfo);
	bytes = PG_GETARG_BYTEA_PP(0);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	len = pq_getmsgint(&buf, 4);
	root = pq_getmsgbytes(&buf, len);
	nentries = pq_getmsgint(&buf, 4);
	state = new_state(CurrentMemoryContext, root, nentries);
	while (nentries-- > 0)
	{
		GcContextEntry entry = {0};

		entry.path.len = pq_getmsgint(&buf, 4);
		entry.path.bytes = pq_getmsgbytes(&buf, entry.path.len);
		entry.version = pq_getmsgint64(&buf);
		entry.deleted = pq_getmsgbyte(&buf);
		len = pq_getmsgint(&buf, 4);
		if (len > 0)			/* a copy, for its alignment */
			entry.own = copy_bytes(CurrentMemoryContext, pq_getmsgbytes(&buf, len), len);
		offer(state, &entry);
	}
	PG_RETURN_POINTER(state);
}

/* _context_merge_final(state): the merged document, NULL when the root is deleted */
Datum
gc_context_merge_final(PG_FUNCTION_ARGS)
{
	GcContextState *state;
	GcContextEntry *entry;
	entries_iterator it;
	GcSpan		all = {0};

	gc_aggregate_context(fcinfo);
	state = get_state(fcinfo, 0);
	if (state == NULL)
		PG_RETURN_NULL();
	all.entries = palloc(state->entries->members * sizeof(GcContextEntry *));
	entries_start_iterate(state->entries, &it);
	while ((entry = entries_iterate(state->entries, &it)) != NULL)
		all.entries[all.last++] = entry;
	qsort(all.entries, all.last, sizeof(GcContextEntry *), compare_entries);
	if (all.entries[0]->deleted)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(JsonbValueToJsonb(entity_value(all)));
}
