/*
 * mapping.c: compiles the words of a mapping into places, slots and rules.
 *
 * Runs once per mapping, so it is written for good messages, not for speed.
 * The grammar is in decode.h.  Every mistake is GC_ERROR_MAPPING, 22023.
 */
#include "mapping.h"

#include <limits.h>

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

#define DELETED_FLAG "gc_deleted"

/* Fails about the mapping; always false. */
#define BAD(err, ...) gc_fail(err, GC_ERROR_MAPPING, "22023", __VA_ARGS__)

/* Edits that turn one name into the other; good for names, that is short texts. */
static int
distance(const char *a, size_t alen, const char *b, size_t blen)
{
	int			row[NAMEDATALEN + 1];

	if (alen > NAMEDATALEN || blen > NAMEDATALEN)
		return INT_MAX;
	for (size_t j = 0; j <= blen; j++)
		row[j] = (int) j;
	for (size_t i = 1; i <= alen; i++)
	{
		int			diagonal = row[0];

		row[0] = (int) i;
		for (size_t j = 1; j <= blen; j++)
		{
			int			above = row[j];
			int			change = diagonal + (a[i - 1] != b[j - 1]);

			row[j] = Min(change, Min(above, row[j - 1]) + 1);
			diagonal = above;
		}
	}
	return row[blen];
}

/* Keeps in *best the candidate that is nearest to a name, if it is near at all. */
static void
nearest(const char *name, size_t len, const char *candidate, const char **best, int *edits)
{
	int			d = distance(name, len, candidate, strlen(candidate));

	if (d < *edits && d <= Max(1, (int) len / 2))
	{
		*edits = d;
		*best = candidate;
	}
}

static void
hint_nearest(GcDecodeError *err, const char *name, size_t len, const char *const *candidates, int n)
{
	const char *best = NULL;
	int			edits = INT_MAX;

	for (int i = 0; i < n; i++)
		nearest(name, len, candidates[i], &best, &edits);
	if (best)
		gc_hint(err, "Perhaps you meant \"%s\".", best);
}

static bool
is_text(const GcJsonValue *value, const char *text)
{
	return value->text_len == strlen(text) && memcmp(value->text, text, value->text_len) == 0;
}

/* The slot of a place, given out when it has none. */
static int
slot_of(GcPath *path, GcDocument *document)
{
	if (path->slot < 0)
		path->slot = document->nslots++;
	return path->slot;
}

/*
 * Paths
 */

/* Reads "..." with \" and \\ at *p, which stands on the first quote. */
static bool
quoted_name(GcMapping *map, const char **p, const char *end, char **name, size_t *len)
{
	char	   *to = *name = gc_arena_alloc(&map->own, end - *p + 1);

	for ((*p)++; *p < end && **p != '"'; (*p)++)
	{
		if (**p == '\\' && *p + 1 < end)
			(*p)++;
		*to++ = **p;
	}
	*len = to - *name;
	*to = '\0';
	if (*p == end)
		return false;
	(*p)++;
	return true;
}

/* Reads the steps at p, .name ."name" [0], below path.  NULL and *why when they are wrong. */
static GcPath *
add_steps(GcMapping *map, GcPath *path, const char *p, const char *end, const char **why)
{
	for (int steps = 0; p < end; steps++)
	{
		char	   *name;
		size_t		len;

		if (steps == GC_MAX_PATH_STEPS)
		{
			*why = "It has too many steps.";
			return NULL;
		}
		if (*p == '[')
		{
			int64		element = 0;
			const char *first = ++p;

			for (; p < end && *p >= '0' && *p <= '9' && element < INT_MAX; p++)
				element = element * 10 + (*p - '0');
			if (p == first || p == end || *p != ']' || element >= INT_MAX)
			{
				*why = "An array element is written [0].";
				return NULL;
			}
			p++;
			path = gc_path_element(&map->own, path, (int) element);
			continue;
		}
		if (*p != '.')
		{
			*why = "A step starts with \".\" or \"[\".";
			return NULL;
		}
		p++;
		if (p < end && *p == '"')
		{
			if (!quoted_name(map, &p, end, &name, &len))
			{
				*why = "A quoted name has no end.";
				return NULL;
			}
		}
		else
		{
			name = (char *) p;
			while (p < end && strchr(".[]\"*?() \t\r\n", *p) == NULL)
				p++;
			len = p - name;
			if (len == 0 || (p < end && *p != '.' && *p != '['))
			{
				*why = "A name with special characters is written in double quotes: $.\"a b\".";
				return NULL;
			}
		}
		path = gc_path_member(&map->own, path, name, len);
	}
	return path;
}

/*
 * Reads "$.a", "$key.a", "$headers.x", "$timestamp" into source.  *path is the place, for sources
 * that have one.
 */
static bool
parse_source(GcMapping *map, const char *what, const char *text, size_t len,
			 GcSource *source, GcPath **path, GcDecodeError *err)
{
	static const char *const words[] = {"$key", "$headers", "$timestamp"};
	const char *end = text + len;
	const char *p = text + 1;
	const char *why = "A source is $, $.name, $key, $key.name, $headers.name or $timestamp.";
	GcDocument *document = NULL;

	*path = NULL;
	source->spelled = gc_arena_text(&map->own, text, len);
	if (len > 0 && *text == '$' && memchr(text, '\0', len) == NULL)
	{
		while (p < end && *p >= 'a' && *p <= 'z')
			p++;
		if (p == text + 1)
		{
			source->kind = GC_SOURCE_PAYLOAD;
			document = &map->payload;
		}
		else if (p - text == 4 && memcmp(text, "$key", 4) == 0)
		{
			source->kind = GC_SOURCE_KEY;
			document = &map->key;
		}
		else if (p - text == 10 && memcmp(text, "$timestamp", 10) == 0 && p == end)
		{
			source->kind = GC_SOURCE_TIMESTAMP;
			return true;
		}
		else if (p - text == 8 && memcmp(text, "$headers", 8) == 0 && end - p > 1 && *p == '.')
		{
			/* All of the rest is the name: names with dots are common here. */
			char	   *name;
			size_t		name_len;

			source->kind = GC_SOURCE_HEADER;
			p++;
			if (*p != '"')
				source->header = gc_arena_text(&map->own, p, end - p);
			else if (quoted_name(map, &p, end, &name, &name_len) && p == end)
				source->header = name;
			if (source->header)
				return true;
			why = "A quoted name has no end.";
		}
	}
	if (document)
	{
		*path = add_steps(map, document->root, p, end, &why);
		if (*path)
		{
			source->slot = slot_of(*path, document);
			return true;
		}
	}
	BAD(err, "%s has the source \"%s\", which is not valid", what, source->spelled);
	gc_detail(err, "%s", why);
	if (document == NULL)
		hint_nearest(err, text, Min((size_t) (p - text), len), words, lengthof(words));
	return false;
}

/*
 * The mapping
 */

static bool
parse_unit(const char *what, const GcJsonValue *value, GcTimeRule *rule, GcDecodeError *err)
{
	static const char *const units[] = {
		[GC_UNIT_AUTO] = "auto", [GC_UNIT_S] = "s", [GC_UNIT_MS] = "ms",
		[GC_UNIT_US] = "us", [GC_UNIT_DAYS] = "days", [GC_UNIT_ISO8601] = "iso8601",
	};
	char		quote[GC_QUOTE_SIZE];

	for (int i = 0; i < lengthof(units); i++)
		if (value->type == GC_JSON_STRING && is_text(value, units[i]))
		{
			rule->unit = (GcTimeUnit) i;
			return true;
		}
	BAD(err, "%s has the unit \"%s\", which does not exist", what,
		gc_quote(quote, value->text, value->text_len));
	gc_hint(err, "Units are auto, s, ms, us, iso8601 and, for dates, days.");
	return false;
}

static bool
parse_zone(const char *what, const GcJsonValue *value, GcTimeRule *rule, GcDecodeError *err)
{
	char		quote[GC_QUOTE_SIZE];

	if (value->type == GC_JSON_STRING && gc_time_zone(value->text, value->text_len, &rule->zone))
	{
		rule->has_zone = true;
		return true;
	}
	BAD(err, "%s has the zone \"%s\", which is not fixed", what,
		gc_quote(quote, value->text, value->text_len));
	gc_detail(err, "A named zone needs a zone database, and two of them may disagree about a time.");
	gc_hint(err, "Write UTC or an offset such as +02:00, or have the producer send the zone.");
	return false;
}

/* The object {"path": ..., "unit": ..., "zone": ...} of a column; path may be left out. */
static bool
parse_source_object(GcMapping *map, const char *what, const GcJsonValue *object,
					GcJsonValue *path, GcTimeRule *rule, GcDecodeError *err)
{
	static const char *const words[] = {"path", "unit", "zone"};
	GcJsonScanner scanner;
	GcJsonIter	iter;
	GcJsonValue name;
	GcJsonValue value;
	bool		ok = true;

	gc_json_scanner_init(&scanner, &map->own);
	gc_json_iter_begin(&iter, &scanner, object->raw, object->raw_len);
	while (ok && gc_json_iter_next(&iter, &name, &value))
	{
		if (is_text(&name, "path") && value.type == GC_JSON_STRING)
			*path = value;
		else if (is_text(&name, "unit"))
			ok = parse_unit(what, &value, rule, err);
		else if (is_text(&name, "zone"))
			ok = parse_zone(what, &value, rule, err);
		else
		{
			char		quote[GC_QUOTE_SIZE];

			ok = BAD(err, "%s has the option \"%s\", which is not valid", what,
					 gc_quote(quote, name.text, name.text_len));
			gc_detail(err, "Options are path (a text), unit and zone.");
			hint_nearest(err, name.text, name.text_len, words, lengthof(words));
		}
	}
	gc_json_scanner_free(&scanner);
	if (ok && rule->has_zone && rule->unit != GC_UNIT_AUTO && rule->unit != GC_UNIT_ISO8601)
		ok = BAD(err, "%s has a zone, but its unit counts from 1970 UTC", what);
	return ok;
}

static bool
is_time(GcColumnKind kind)
{
	return kind == GC_KIND_TIMESTAMPTZ || kind == GC_KIND_TIMESTAMP || kind == GC_KIND_DATE;
}

/* Does the rule fit what the column holds? */
static bool
check_rule(const GcBinding *binding, bool declared, GcDecodeError *err)
{
	const GcDecodeColumn *column = &binding->column;
	GcColumnKind kind = column->kind == GC_KIND_ARRAY ? column->element : column->kind;

	if (declared && !is_time(kind))
		return BAD(err, "column \"%s\" is no time: it takes no unit and no zone", column->name);
	if (declared && binding->source.kind == GC_SOURCE_TIMESTAMP)
		return BAD(err, "column \"%s\" takes no unit and no zone: $timestamp needs none", column->name);
	if (binding->source.rule.unit == GC_UNIT_DAYS && kind != GC_KIND_DATE)
		return BAD(err, "column \"%s\" is no date: it takes no unit \"days\"", column->name);
	if (binding->source.kind == GC_SOURCE_TIMESTAMP && !is_time(column->kind) &&
		column->kind != GC_KIND_TEXT)
		return BAD(err, "column \"%s\" cannot hold $timestamp: it is neither a time nor text",
				   column->name);
	return true;
}

/* Takes the top-level field of the column's name, or of its camelCase name. */
static void
default_source(GcMapping *map, GcBinding *binding)
{
	const char *name = binding->column.name;
	GcSource   *source = &binding->source;
	GcPath	   *path = gc_path_member(&map->own, map->payload.root, name, strlen(name));
	GcPath	   *alias = gc_path_member(&map->own, map->payload.root->aliases, name, strlen(name));
	char	   *spelled;

	path->taken = alias->taken = true;
	source->kind = GC_SOURCE_PAYLOAD;
	source->slot = slot_of(path, &map->payload);
	source->alias = slot_of(alias, &map->payload);
	spelled = gc_arena_alloc(&map->own, strlen(name) + 3);
	sprintf(spelled, "$.%s", name);
	source->spelled = spelled;
}

/* One member of the mapping: a column, or gc_deleted when binding is NULL. */
static bool
map_column(GcMapping *map, GcBinding *binding, const GcJsonValue *value, bool *is_default,
		   GcDecodeError *err)
{
	char		what[NAMEDATALEN + 32];
	GcSource   *source = binding ? &binding->source : &map->deleted;
	GcJsonValue text = {0};
	GcPath	   *path;
	bool		declared = false;

	*is_default = false;
	snprintf(what, sizeof(what), "mapping of \"%s\"", binding ? binding->column.name : DELETED_FLAG);
	memset(source, 0, sizeof(*source));
	source->slot = source->alias = -1;

	if (value->type == GC_JSON_NULL)
		return true;
	if (value->type == GC_JSON_STRING)
		text = *value;
	else if (value->type == GC_JSON_OBJECT)
	{
		if (!parse_source_object(map, what, value, &text, &source->rule, err))
			return false;
		declared = source->rule.has_zone || source->rule.unit != GC_UNIT_AUTO;
	}
	else
	{
		BAD(err, "%s is neither a text nor an object", what);
		gc_hint(err, "Write \"$.name\" or {\"path\": \"$.name\", \"unit\": \"ms\"}.");
		return false;
	}
	if (text.type == GC_JSON_ABSENT)
		*is_default = true;		/* the caller fills in the path; the rule stays */
	else
	{
		if (!parse_source(map, what, text.text, text.text_len, source, &path, err))
			return false;
		if (path && source->kind == GC_SOURCE_PAYLOAD)
			path->taken = true;
	}
	if (binding)
		return check_rule(binding, declared, err);
	if (declared || source->kind == GC_SOURCE_TIMESTAMP || *is_default)
		return BAD(err, "%s is not a field that can hold a flag", what);
	return true;
}

/* Scans a JSON text of the caller's (mapping or filter), which must be an object. */
static bool
begin_object(GcMapping *map, const char *what, const char *json, GcJsonIter *iter, GcDecodeError *err)
{
	size_t		len = strlen(json);

	if (len > GC_MAX_MAPPING_BYTES)
		return BAD(err, "%s is too long", what);
	if (!gc_json_check_text(what, json, len, err) ||
		!gc_json_scan(&map->scanner, what, json, len, NULL, NULL, 0, false, err))
	{
		err->kind = GC_ERROR_MAPPING;
		strcpy(err->sqlstate, "22023");
		return false;
	}
	gc_json_iter_begin(iter, &map->scanner, json, len);
	if (iter->type != GC_JSON_OBJECT)
		return BAD(err, "%s is not a JSON object", what);
	return true;
}

static bool
compile_mapping(GcMapping *map, const char *json, GcDecodeError *err)
{
	bool	   *mapped = gc_arena_alloc(&map->own, sizeof(bool) * map->ncolumns);
	GcJsonIter	iter;
	GcJsonValue name;
	GcJsonValue value;
	bool		deleted_mapped = false;

	map->deleted_slots[0] = map->deleted_slots[1] = -1;
	memset(mapped, 0, sizeof(bool) * map->ncolumns);
	if (json)
	{
		if (!begin_object(map, "mapping", json, &iter, err))
			return false;
		while (gc_json_iter_next(&iter, &name, &value))
		{
			bool		is_default;
			int			i = 0;

			if (is_text(&name, DELETED_FLAG))
			{
				deleted_mapped = true;
				if (!map_column(map, NULL, &value, &is_default, err))
					return false;
				continue;
			}
			while (i < map->ncolumns && !is_text(&name, map->bindings[i].column.name))
				i++;
			if (i == map->ncolumns)
			{
				const char *best = NULL;
				int			edits = INT_MAX;
				char		quote[GC_QUOTE_SIZE];

				BAD(err, "mapping names column \"%s\", which does not exist",
					gc_quote(quote, name.text, name.text_len));
				for (i = 0; i < map->ncolumns; i++)
					nearest(name.text, name.text_len, map->bindings[i].column.name, &best, &edits);
				nearest(name.text, name.text_len, DELETED_FLAG, &best, &edits);
				if (best)
					gc_hint(err, "Perhaps you meant \"%s\".", best);
				return false;
			}
			if (i == map->unmapped)
				return BAD(err, "column \"%s\" collects what is not mapped, so it cannot be mapped",
						   map->bindings[i].column.name);
			if (!map_column(map, &map->bindings[i], &value, &is_default, err))
				return false;
			mapped[i] = !is_default;
		}
	}
	for (int i = 0; i < map->ncolumns; i++)
	{
		if (!mapped[i] && i != map->unmapped)
			default_source(map, &map->bindings[i]);
		if (map->bindings[i].source.kind == GC_SOURCE_NOTHING &&
			(map->bindings[i].column.is_key || map->bindings[i].column.is_version))
			return BAD(err, "column \"%s\" is a key or the version and needs a source",
					   map->bindings[i].column.name);
	}
	if (!deleted_mapped)
	{
		static const char *const flags[] = {DELETED_FLAG, "__deleted"};

		for (int i = 0; i < lengthof(flags); i++)
		{
			GcPath	   *path = gc_path_member(&map->own, map->payload.root, flags[i], strlen(flags[i]));

			path->taken = true;
			map->deleted_slots[i] = slot_of(path, &map->payload);
		}
	}
	return true;
}

static bool
compile_filter(GcMapping *map, const char *json, GcDecodeError *err)
{
	GcJsonIter	iter;
	GcJsonValue name;
	GcJsonValue value;
	int			n = 0;

	if (json == NULL)
		return true;
	if (!begin_object(map, "filter", json, &iter, err))
		return false;
	while (gc_json_iter_next(&iter, &name, &value))
		n++;
	map->conditions = gc_arena_alloc(&map->own, sizeof(GcCondition) * Max(n, 1));
	gc_json_iter_begin(&iter, &map->scanner, json, strlen(json));
	while (gc_json_iter_next(&iter, &name, &value))
	{
		GcCondition *condition = &map->conditions[map->nconditions++];
		GcPath	   *path;

		memset(condition, 0, sizeof(*condition));
		condition->source.alias = -1;
		if (!parse_source(map, "filter", name.text, name.text_len, &condition->source, &path, err))
			return false;
		if (condition->source.kind == GC_SOURCE_TIMESTAMP)
			return BAD(err, "filter cannot compare $timestamp");
		if (value.type >= GC_JSON_OBJECT)
			return BAD(err, "filter compares \"%s\" with an object or array", condition->source.spelled);
		condition->expected = value;
		condition->expected.raw = gc_arena_text(&map->own, value.raw, value.raw_len);
		condition->expected.text = gc_arena_text(&map->own, value.text, value.text_len);
	}
	return true;
}

/*
 * Where a tombstone's key columns are looked for in the record's key: by the
 * payload's path, by name, by camelCase name, by position in an array.
 */
static void
compile_key(GcMapping *map)
{
	int			position = 0;

	for (int i = 0; i < map->ncolumns; i++)
	{
		GcBinding  *binding = &map->bindings[i];
		const char *name = binding->column.name;
		const char *why;
		GcPath	   *path;
		int			n = 0;

		memset(binding->key_slot, -1, sizeof(binding->key_slot));
		if (!binding->column.is_key)
			continue;
		if (binding->source.kind == GC_SOURCE_PAYLOAD && binding->source.alias < 0)
		{
			/* It was parsed before, so it is right; "$" alone means the whole payload, not the key. */
			const char *spelled = binding->source.spelled;

			path = add_steps(map, map->key.root, spelled + 1, spelled + strlen(spelled), &why);
			if (path && path != map->key.root)
				binding->key_slot[n++] = slot_of(path, &map->key);
		}
		path = gc_path_member(&map->own, map->key.root, name, strlen(name));
		binding->key_slot[n++] = slot_of(path, &map->key);
		path = gc_path_member(&map->own, map->key.root->aliases, name, strlen(name));
		binding->key_slot[n++] = slot_of(path, &map->key);
		path = gc_path_element(&map->own, map->key.root, position++);
		binding->key_slot[n++] = slot_of(path, &map->key);
	}
	map->key_extra_slot = slot_of(gc_path_element(&map->own, map->key.root, position), &map->key);
}

/* Looks for Connect's wrapper, unless the document has its words for itself. */
static void
look_for_wrapper(GcMapping *map, GcDocument *document)
{
	GcPath	   *root = document->root;
	bool		has_schema = false;
	bool		has_payload = false;

	document->schema_slot = document->payload_slot = -1;
	for (int i = 0; i < root->nchildren; i++)
	{
		const char *name = root->child[i]->name;

		has_schema |= name && strcmp(name, "schema") == 0;
		has_payload |= name && strcmp(name, "payload") == 0;
	}
	if (!has_schema)
		gc_path_repeats(&map->own, gc_path_member(&map->own, root, "schema", 6));
	if (has_schema || has_payload)
		return;
	document->schema_slot = slot_of(gc_path_member(&map->own, root, "schema", 6), document);
	document->payload_slot = slot_of(gc_path_member(&map->own, root, "payload", 7), document);
}

static void
finish_document(GcMapping *map, GcDocument *document)
{
	document->root_slot = slot_of(document->root, document);
	look_for_wrapper(map, document);
	gc_path_finish(&map->own, document->root);
	document->slots = gc_arena_alloc(&map->own, sizeof(GcJsonValue) * document->nslots);
	memset(document->slots, 0, sizeof(GcJsonValue) * document->nslots);
}

static void
compile_envelope(GcMapping *map)
{
	static const char *const paths[] = {".op", ".before", ".after", ".source.ts_us", ".source.ts_ms"};
	GcPath	   *root = gc_path_root(&map->own);
	GcPath	   *payload = gc_path_member(&map->own, root, "payload", 7);
	GcPath	   *schema = gc_path_member(&map->own, root, "schema", 6);
	const char *why;

	payload->slot = ENV_PAYLOAD;
	schema->slot = ENV_SCHEMA;
	gc_path_repeats(&map->own, schema);
	for (int i = 0; i < lengthof(paths); i++)
	{
		const char *end = paths[i] + strlen(paths[i]);

		add_steps(map, root, paths[i], end, &why)->slot = ENV_FIELDS + i;
		add_steps(map, payload, paths[i], end, &why)->slot = ENV_WRAPPED + i;
	}
	gc_path_finish(&map->own, root);
	map->envelope_root = root;
}

/*
 * Columns
 */

static bool
compile_columns(GcMapping *map, const GcMappingSpec *spec, GcDecodeError *err)
{
	map->ncolumns = spec->ncolumns;
	map->bindings = gc_arena_alloc(&map->own, sizeof(GcBinding) * Max(spec->ncolumns, 1));
	map->fields = gc_arena_alloc(&map->own, sizeof(GcField) * Max(spec->ncolumns, 1));
	map->version = map->unmapped = -1;
	for (int i = 0; i < spec->ncolumns; i++)
	{
		const GcDecodeColumn *column = &spec->columns[i];
		GcBinding  *binding = &map->bindings[i];

		memset(binding, 0, sizeof(*binding));
		binding->column = *column;
		binding->column.name = gc_arena_text(&map->own, column->name, strlen(column->name));
		binding->source.slot = binding->source.alias = -1;
		map->nkeys += column->is_key;
		if (column->kind == GC_KIND_ARRAY && column->element == GC_KIND_ARRAY)
			return BAD(err, "column \"%s\" is an array of arrays", column->name);
		if (column->is_version)
		{
			if (map->version >= 0)
				return BAD(err, "columns \"%s\" and \"%s\" are both the version",
						   map->bindings[map->version].column.name, column->name);
			if (column->kind != GC_KIND_TIMESTAMPTZ && column->kind != GC_KIND_TIMESTAMP)
				return BAD(err, "column \"%s\" is the version but no timestamp", column->name);
			map->version = i;
		}
		if (column->is_unmapped)
		{
			if (map->unmapped >= 0)
				return BAD(err, "columns \"%s\" and \"%s\" both collect what is not mapped",
						   map->bindings[map->unmapped].column.name, column->name);
			if (column->kind != GC_KIND_JSON || column->is_key)
				return BAD(err, "column \"%s\" cannot collect what is not mapped: it is a key or not jsonb",
						   column->name);
			map->unmapped = i;
		}
	}
	if (map->nkeys == 0)
		return BAD(err, "there is no key column");
	if (map->version < 0)
		return BAD(err, "there is no version column");
	return true;
}

GcMapping *
gc_mapping_compile(const GcMappingSpec *spec, GcDecodeError *err)
{
	GcMapping  *map = palloc0(sizeof(GcMapping));

	memset(err, 0, sizeof(*err));
#ifndef FRONTEND
	map->context = CurrentMemoryContext;
#endif
	gc_arena_init(&map->own);
	gc_arena_init(&map->record);
	gc_json_scanner_init(&map->scanner, &map->own);
	initStringInfo(&map->scratch);
	map->envelope = spec->envelope;
	map->max_value_bytes = spec->max_value_bytes ?
		Min(spec->max_value_bytes, GC_MAX_VALUE_BYTES_LIMIT) : GC_MAX_VALUE_BYTES;
	map->deleted.slot = map->deleted.alias = -1;
	map->payload.root = gc_path_root(&map->own);
	map->payload.root->aliases = gc_path_root(&map->own);
	map->key.root = gc_path_root(&map->own);
	map->key.root->aliases = gc_path_root(&map->own);

	if (!compile_columns(map, spec, err) ||
		!compile_mapping(map, spec->mapping, err) ||
		!compile_filter(map, spec->filter, err))
	{
		gc_mapping_free(map);
		return NULL;
	}
	compile_key(map);
	compile_envelope(map);
	finish_document(map, &map->payload);
	finish_document(map, &map->key);
	map->scanner.arena = &map->record;
	return map;
}

void
gc_mapping_free(GcMapping *map)
{
	gc_json_scanner_free(&map->scanner);
	pfree(map->scratch.data);
	gc_arena_free(&map->record);
	gc_arena_free(&map->own);
	pfree(map);
}
