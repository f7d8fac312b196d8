/*
 * decode.c: one record, from bytes to column texts.
 *
 * decode.h says what is promised.  The way of a record: sizes and encoding,
 * envelope, scan of the entity, filter, then either every column (upsert) or
 * key and version (tombstone).  The record's key is scanned only when
 * somebody asks for it.
 */
#include "mapping.h"

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

typedef enum KeyState
{
	KEY_UNREAD = 0,
	KEY_NONE,					/* the record has no key */
	KEY_READ					/* map->key.slots is filled */
} KeyState;

/* What is known of the record being decoded. */
typedef struct Record
{
	GcMapping  *map;
	const GcDecodeInput *in;
	GcDecoded  *out;
	KeyState	key_state;
	bool		has_row;		/* map->payload.slots is filled */
	bool		debezium_delete;
	int64		source_us;		/* debezium_delete: the source's time, or GC_NO_TIMESTAMP */
	const GcJsonMember *rest;	/* the row's members that no column takes */
	int			nrest;
} Record;

/*
 * Documents
 */

/* Takes Connect's wrapper off: scans what is in it.  *wrapped_null: there is nothing in it. */
static bool
unwrap(Record *record, GcDocument *document, const char *what, bool rest, bool *wrapped_null)
{
	GcMapping  *map = record->map;
	GcJsonValue payload;

	*wrapped_null = false;
	if (document->schema_slot < 0 || map->scanner.members != 2)
		return true;
	payload = document->slots[document->payload_slot];
	if (payload.type == GC_JSON_ABSENT ||
		(document->slots[document->schema_slot].type != GC_JSON_OBJECT &&
		 document->slots[document->schema_slot].type != GC_JSON_NULL))
		return true;
	*wrapped_null = payload.type == GC_JSON_NULL;
	return gc_json_scan(&map->scanner, what, payload.raw, payload.raw_len, document->root,
						document->slots, document->nslots, rest, &record->out->error);
}

/*
 * Fills the key's slots once.  A key is JSON or plain text: what does not even
 * begin like a JSON object, array or string may be anything.
 */
static bool
read_key(Record *record)
{
	GcMapping  *map = record->map;
	GcDocument *key = &map->key;
	const char *text = record->in->key;
	size_t		len = record->in->key_len;
	GcDecodeError *err = &record->out->error;
	bool		wrapped_null;

	if (record->key_state != KEY_UNREAD)
		return true;
	record->key_state = KEY_NONE;
	for (int i = 0; i < key->nslots; i++)
		key->slots[i].type = GC_JSON_ABSENT;
	if (text == NULL || len == 0)
		return true;
	if (!gc_json_check_text("record key", text, len, err))
		return false;
	if (!gc_json_scan(&map->scanner, "record key", text, len, key->root, key->slots, key->nslots,
					  false, err))
	{
		size_t		at = 0;

		while (at < len && strchr(" \t\r\n", text[at]))
			at++;
		if (at < len && strchr("{[\"", text[at]))
			return false;
		for (int i = 0; i < key->nslots; i++)
			key->slots[i].type = GC_JSON_ABSENT;
		key->slots[key->root_slot] = (GcJsonValue)
		{
			.type = GC_JSON_STRING, .text = text, .text_len = len
		};
		memset(err, 0, sizeof(*err));
	}
	else if (!unwrap(record, key, "record key", false, &wrapped_null))
		return false;
	record->key_state = KEY_READ;
	return true;
}

/* Scans the entity itself.  *empty: it was a wrapper with nothing in it. */
static bool
read_row(Record *record, const char *json, size_t len, bool *empty)
{
	GcMapping  *map = record->map;
	GcDocument *payload = &map->payload;
	GcJsonType	type;
	bool		rest = map->unmapped >= 0;

	if (!gc_json_scan(&map->scanner, "payload", json, len, payload->root, payload->slots,
					  payload->nslots, rest, &record->out->error) ||
		!unwrap(record, payload, "payload", rest, empty))
		return false;
	if (*empty)
		return true;
	type = payload->slots[payload->root_slot].type;
	if (type != GC_JSON_OBJECT)
	{
		gc_fail(&record->out->error, GC_ERROR_TYPE, "22023", "payload is not a JSON object");
		gc_detail(&record->out->error, "A record holds the full state of one entity as one object.");
		return false;
	}
	record->has_row = true;
	record->rest = map->scanner.rest;	/* the next scan starts a new list */
	record->nrest = map->scanner.nrest;
	return true;
}

/*
 * Sources
 */

/* The last header of that name. */
static bool
read_header(Record *record, const char *name, GcJsonValue *value)
{
	const GcDecodeInput *in = record->in;

	for (int i = in->nheaders - 1; i >= 0; i--)
	{
		const GcHeader *header = &in->headers[i];

		if (strcmp(header->name, name) != 0)
			continue;
		value->type = header->value ? GC_JSON_STRING : GC_JSON_NULL;
		value->text = header->value;
		value->text_len = header->value_len;
		return header->value == NULL ||
			gc_json_check_text("header", header->value, header->value_len, &record->out->error);
	}
	return true;
}

/* The value of a source other than $timestamp; absent where there is none. */
static bool
read_source(Record *record, const GcSource *source, GcJsonValue *value)
{
	GcMapping  *map = record->map;

	*value = (GcJsonValue)
	{
		.type = GC_JSON_ABSENT
	};
	switch (source->kind)
	{
		case GC_SOURCE_PAYLOAD:
			if (!record->has_row)
				return true;
			*value = map->payload.slots[source->slot];
			if (value->type == GC_JSON_ABSENT && source->alias >= 0)
				*value = map->payload.slots[source->alias];
			return true;
		case GC_SOURCE_KEY:
			if (!read_key(record))
				return false;
			if (record->key_state == KEY_READ)
				*value = map->key.slots[source->slot];
			return true;
		case GC_SOURCE_HEADER:
			return read_header(record, source->header, value);
		default:
			return true;
	}
}

#define FIELD_NAME_SIZE (GC_QUOTE_SIZE + 2)

/* Has the field that a column takes the column's name in camelCase in this record? */
static bool
found_by_alias(Record *record, const GcSource *source)
{
	const GcJsonValue *slots = record->map->payload.slots;

	return source->kind == GC_SOURCE_PAYLOAD && source->alias >= 0 && record->has_row &&
		slots[source->slot].type == GC_JSON_ABSENT && slots[source->alias].type != GC_JSON_ABSENT;
}

/*
 * A source, for messages, as the payload spells it: "$.modifiedAt" where that field is what
 * "$.modified_at" found.  Scanning does not keep names, but the name stands before the value.
 */
static const char *
spelled(Record *record, const GcSource *source, char *buf)
{
	const char *start;
	const char *end;
	char		quote[GC_QUOTE_SIZE];

	if (!found_by_alias(record, source))
		return source->spelled;
	end = record->map->payload.slots[source->alias].raw - 1;
	while (*end != '"')
		end--;					/* blanks and the colon */
	start = end;
	while (start[-1] != '"')
		start--;
	snprintf(buf, FIELD_NAME_SIZE, "$.%s", gc_quote(quote, start, end - start));
	return buf;
}

/* Says where a column that got nothing is taken from, by both its names if it has two. */
static void
detail_source(Record *record, const GcBinding *binding, const char *more)
{
	const GcSource *source = &binding->source;
	GcDecodeError *err = &record->out->error;
	char		buf[FIELD_NAME_SIZE];
	char		camel[NAMEDATALEN];
	char	   *to = camel;

	if (source->kind == GC_SOURCE_PAYLOAD && source->alias >= 0 && !found_by_alias(record, source))
	{
		for (const char *p = binding->column.name; *p; p++)
		{
			if (*p == '_' && p[1] >= 'a' && p[1] <= 'z' && to > camel)
				*to++ = *++p - ('a' - 'A');
			else
				*to++ = *p;
		}
		*to = '\0';
		if (strcmp(camel, binding->column.name) != 0)
		{
			gc_detail(err, "It is taken from \"%s\" or \"$.%s\"%s.", source->spelled, camel, more);
			return;
		}
	}
	gc_detail(err, "It is taken from \"%s\"%s.", spelled(record, source, buf), more);
}

/* Fills one column from its source.  *us: the time, where it is one. */
static bool
read_column(Record *record, int i, int64 *us)
{
	GcMapping  *map = record->map;
	const GcBinding *binding = &map->bindings[i];
	GcField    *field = &map->fields[i];
	GcJsonValue value;

	if (i == map->unmapped)
		return true;			/* has its own way */
	if (binding->source.kind == GC_SOURCE_TIMESTAMP)
	{
		*us = record->in->timestamp_us;
		return *us == GC_NO_TIMESTAMP ||
			gc_time_text(map, binding, *us, field, &record->out->error);
	}
	if (!read_source(record, &binding->source, &value))
		return false;
	if (!gc_column_text(map, binding, binding->source.spelled, &value, field, us,
						&record->out->error))
	{
		char		buf[FIELD_NAME_SIZE];

		/* once more, for an error that names the field as it is spelled */
		return found_by_alias(record, &binding->source) &&
			gc_column_text(map, binding, spelled(record, &binding->source, buf), &value, field, us,
						   &record->out->error);
	}
	return true;
}

/*
 * Filter and delete flag
 */

/* Equal as spelled: 1 and 1.0 differ, "1" and 1 too, except where a text has no type (header, plain key). */
static bool
equals(const GcJsonValue *value, const GcJsonValue *expected)
{
	if (expected->type == GC_JSON_NULL)
		return value->type == GC_JSON_NULL || value->type == GC_JSON_ABSENT;
	if (value->type != expected->type && (value->type != GC_JSON_STRING || value->raw))
		return false;
	return value->text_len == expected->text_len &&
		memcmp(value->text, expected->text, value->text_len) == 0;
}

/*
 * Do all conditions hold?  A tombstone often has no payload, or little of it: what is
 * not there is not asked, so that no delete is missed.
 */
static bool
passes_filter(Record *record, bool deleted, bool *passes)
{
	GcMapping  *map = record->map;

	*passes = true;
	for (int i = 0; i < map->nconditions; i++)
	{
		GcCondition *condition = &map->conditions[i];
		GcJsonValue value;

		if (!read_source(record, &condition->source, &value))
			return false;
		if (deleted && condition->source.kind == GC_SOURCE_PAYLOAD && value.type == GC_JSON_ABSENT)
			continue;
		if (!equals(&value, &condition->expected))
		{
			*passes = false;
			return true;
		}
	}
	return true;
}

/* Reads a soft-delete flag; absent and null are false. */
static bool
flag_value(Record *record, const char *from, const GcJsonValue *value, bool *flag)
{
	size_t		len = value->text_len;

	if (value->type == GC_JSON_ABSENT || value->type == GC_JSON_NULL)
		return true;
	if (value->type < GC_JSON_OBJECT)
	{
		if ((len == 4 && memcmp(value->text, "true", 4) == 0) || (len == 1 && *value->text == '1'))
		{
			*flag = true;
			return true;
		}
		if ((len == 5 && memcmp(value->text, "false", 5) == 0) || (len == 1 && *value->text == '0'))
			return true;
	}
	gc_fail(&record->out->error, GC_ERROR_TYPE, "22023", "field \"%s\" is no delete flag", from);
	gc_detail(&record->out->error, "A delete flag is true, false, 0, 1 or one of these as a string.");
	return false;
}

static bool
read_deleted(Record *record, bool *deleted)
{
	static const char *const names[] = {"$.gc_deleted", "$.__deleted"};
	GcMapping  *map = record->map;
	GcJsonValue value;

	if (map->deleted.kind != GC_SOURCE_NOTHING)
		return read_source(record, &map->deleted, &value) &&
			flag_value(record, map->deleted.spelled, &value, deleted);
	for (int i = 0; i < 2 && record->has_row; i++)
		if (map->deleted_slots[i] >= 0 &&
			!flag_value(record, names[i], &map->payload.slots[map->deleted_slots[i]], deleted))
			return false;
	return true;
}

/*
 * Keys and versions
 */

static bool
no_key(Record *record, const GcBinding *binding)
{
	GcDecodeError *err = &record->out->error;

	gc_fail(err, GC_ERROR_NO_KEY, "23502", "record has no key: column \"%s\" is missing or null",
			binding->column.name);
	detail_source(record, binding, binding->source.kind == GC_SOURCE_PAYLOAD && !record->has_row ?
				  ", and the payload is null: then from the record's key" : "");
	return false;
}

static bool
no_version(Record *record)
{
	const GcBinding *binding = &record->map->bindings[record->map->version];

	gc_fail(&record->out->error, GC_ERROR_NO_VERSION, "23502",
			"record has no version: column \"%s\" is missing or null", binding->column.name);
	detail_source(record, binding, "");
	return false;
}

/* Finds a tombstone's key column in the record's key. */
static bool
key_from_record(Record *record, int i)
{
	GcMapping  *map = record->map;
	const GcBinding *binding = &map->bindings[i];
	const GcJsonValue *slots = map->key.slots;
	const GcJsonValue *root = &slots[map->key.root_slot];
	const GcJsonValue *value = NULL;
	int64		us;

	if (!read_key(record))
		return false;
	if (record->key_state == KEY_NONE)
		return no_key(record, binding);
	if (root->type == GC_JSON_ARRAY && slots[map->key_extra_slot].type != GC_JSON_ABSENT)
		return gc_fail(&record->out->error, GC_ERROR_NO_KEY, "23502",
					   "record has no key: its key is an array of more than %d", map->nkeys);
	if (root->type >= GC_JSON_OBJECT)
	{
		for (int n = 0; n < GC_KEY_CANDIDATES && value == NULL; n++)
			if (binding->key_slot[n] >= 0 && slots[binding->key_slot[n]].type > GC_JSON_NULL)
				value = &slots[binding->key_slot[n]];
	}
	else if (map->nkeys == 1 && root->type > GC_JSON_NULL)
		value = root;
	if (value == NULL)
	{
		no_key(record, binding);
		gc_detail(&record->out->error, "The record's key has no member \"%s\"%s.", binding->column.name,
				  root->type < GC_JSON_OBJECT && map->nkeys > 1 ? ", it is one value for several columns" : "");
		return false;
	}
	return gc_column_text(map, binding, "$key", value, &map->fields[i], &us, &record->out->error);
}

/* All key columns are there and fit into an index together. */
static bool
check_keys(Record *record)
{
	GcMapping  *map = record->map;
	size_t		len = 0;

	for (int i = 0; i < map->ncolumns; i++)
	{
		if (!map->bindings[i].column.is_key)
			continue;
		if (map->fields[i].state != GC_FIELD_TEXT)
			return no_key(record, &map->bindings[i]);
		len += map->fields[i].len;
	}
	if (len > GC_MAX_KEY_TEXT_BYTES)
	{
		gc_fail(&record->out->error, GC_ERROR_LIMIT, "54000", "record's key is too long");
		gc_detail(&record->out->error, "Its columns have %zu bytes, at most %d are allowed.", len,
				  GC_MAX_KEY_TEXT_BYTES);
		return false;
	}
	return true;
}

static bool
decode_upsert(Record *record)
{
	GcMapping  *map = record->map;
	GcDecodeError *err = &record->out->error;

	if (map->unmapped >= 0 &&
		!gc_unmapped_text(map, record->rest, record->nrest, &map->fields[map->unmapped], err))
		return false;
	for (int i = 0; i < map->ncolumns; i++)
	{
		int64		us = 0;

		if (!read_column(record, i, &us))
			return false;
		if (i == map->version)
			record->out->version_us = us;
	}
	if (!check_keys(record))
		return false;
	if (map->fields[map->version].state != GC_FIELD_TEXT)
		return no_version(record);
	record->out->status = GC_DECODE_UPSERT;
	return true;
}

static bool
decode_tombstone(Record *record)
{
	GcMapping  *map = record->map;
	GcDecodeError *err = &record->out->error;
	GcField    *version = &map->fields[map->version];
	bool		later = false;
	int64		us = 0;

	for (int i = 0; i < map->ncolumns; i++)
	{
		int64		unused;

		if (!map->bindings[i].column.is_key)
			continue;
		if (!read_column(record, i, &unused))
			return false;
		if (map->fields[i].state != GC_FIELD_TEXT && !key_from_record(record, i))
			return false;
	}
	if (!check_keys(record))
		return false;

	if (!read_column(record, map->version, &us))
	{
		/* The row that Debezium deletes may be older than this mapping; the source's time is enough. */
		if (!record->debezium_delete || err->kind != GC_ERROR_TIME)
			return false;
		memset(err, 0, sizeof(*err));
	}
	if (record->debezium_delete && record->source_us != GC_NO_TIMESTAMP &&
		map->bindings[map->version].source.kind == GC_SOURCE_PAYLOAD)
		later = version->state != GC_FIELD_TEXT || us < record->source_us;
	if (later)
		us = record->source_us;
	else if (version->state != GC_FIELD_TEXT)
	{
		us = record->in->timestamp_us;
		later = us != GC_NO_TIMESTAMP;
	}
	if (later && !gc_time_text(map, &map->bindings[map->version], us, version, err))
		return false;
	if (version->state != GC_FIELD_TEXT)
		return no_version(record);
	record->out->version_us = us;
	record->out->status = GC_DECODE_TOMBSTONE;
	return true;
}

/* The entity has been read, or there is none: what remains is the same for all envelopes. */
static bool
decode_row(Record *record, bool deleted)
{
	bool		passes;

	if (!read_deleted(record, &deleted) || !passes_filter(record, deleted, &passes))
		return false;
	if (!passes)
	{
		record->out->status = GC_DECODE_FILTERED;
		return true;
	}
	return deleted ? decode_tombstone(record) : decode_upsert(record);
}

/*
 * Envelopes
 */

static bool
decode_plain(Record *record)
{
	const GcDecodeInput *in = record->in;
	bool		empty = false;

	if (in->value && !read_row(record, in->value, in->value_len, &empty))
		return false;
	return decode_row(record, in->deleted || in->value == NULL || empty);
}

static bool
bad_envelope(Record *record, const char *why)
{
	gc_fail(&record->out->error, GC_ERROR_ENVELOPE, "22023", "payload is not a Debezium envelope: %s", why);
	gc_hint(&record->out->error, "Use envelope \"plain\" when the connector unwraps records.");
	return false;
}

/* source.ts_us, else source.ts_ms, else nothing. */
static int64
debezium_time(const GcJsonValue *us, const GcJsonValue *ms)
{
	static const GcTimeRule rules[] = {{.unit = GC_UNIT_US}, {.unit = GC_UNIT_MS}};
	const GcJsonValue *values[] = {us, ms};

	for (int i = 0; i < 2; i++)
	{
		int64		time;
		bool		range;

		if (values[i]->type == GC_JSON_NUMBER &&
			gc_time_parse(values[i]->text, values[i]->text_len, &rules[i], GC_KIND_TIMESTAMPTZ,
						  &time, &range) == NULL && gc_time_plausible(time))
			return time;
	}
	return GC_NO_TIMESTAMP;
}

static bool
decode_debezium(Record *record)
{
	GcMapping  *map = record->map;
	GcDecodeError *err = &record->out->error;
	const GcDecodeInput *in = record->in;
	const GcJsonValue *slots = map->envelope_slots;
	const GcJsonValue *fields = slots;	/* slots of the same fields, in the wrapper or not */
	const GcJsonValue *op;
	const GcJsonValue *row;
	bool		empty;

	/* The delete came before it, with the source's time; this one is for the topic's compaction. */
	if (in->value == NULL && !in->deleted)
	{
		record->out->status = GC_DECODE_IGNORED;
		return true;
	}
	if (in->value == NULL)
		return decode_row(record, true);
	if (!gc_json_scan(&map->scanner, "payload", in->value, in->value_len, map->envelope_root,
					  map->envelope_slots, ENV_SLOTS, false, err))
		return false;
	if (map->scanner.members == 2 && slots[ENV_SCHEMA].type != GC_JSON_ABSENT)
	{
		if (slots[ENV_PAYLOAD].type == GC_JSON_NULL)
		{
			record->out->status = GC_DECODE_IGNORED;
			return true;
		}
		fields = slots + (ENV_WRAPPED - ENV_FIELDS);
	}
	op = &fields[ENV_OP];
	if (op->type != GC_JSON_STRING || op->text_len != 1)
		return bad_envelope(record, "it has no \"op\" of one letter");
	switch (*op->text)
	{
		case 'c':
		case 'u':
		case 'r':
			row = &fields[ENV_AFTER];
			if (row->type != GC_JSON_OBJECT)
				return bad_envelope(record, "\"after\" is not an object");
			return read_row(record, row->raw, row->raw_len, &empty) && decode_row(record, in->deleted);
		case 'd':
			row = &fields[ENV_BEFORE];
			record->debezium_delete = true;
			record->source_us = debezium_time(&fields[ENV_SOURCE_US], &fields[ENV_SOURCE_MS]);
			if (row->type == GC_JSON_OBJECT && !read_row(record, row->raw, row->raw_len, &empty))
				return false;
			return decode_row(record, true);
		case 't':
			gc_fail(err, GC_ERROR_TRUNCATE, "0A000", "source table was truncated");
			gc_detail(err, "A truncate names no keys, so it cannot be applied as tombstones.");
			gc_hint(err, "Load a dataset of the table as it is now and activate it, then skip this record.");
			record->out->status = GC_DECODE_HALT;
			return false;
		case 'm':
			record->out->status = GC_DECODE_IGNORED;
			return true;
		default:
			gc_fail(err, GC_ERROR_ENVELOPE, "22023", "payload has an unknown Debezium operation");
			gc_detail(err, "Known are c, u, r, d, t and m.");
			return false;
	}
}

static bool
check_sizes(Record *record)
{
	const GcDecodeInput *in = record->in;
	GcDecodeError *err = &record->out->error;
	size_t		bytes = 0;

	if (in->value && in->value_len > record->map->max_value_bytes)
	{
		gc_fail(err, GC_ERROR_LIMIT, "54000", "payload is too large");
		gc_detail(err, "It has %zu bytes, at most %zu are allowed.", in->value_len,
				  record->map->max_value_bytes);
		return false;
	}
	if (in->key && in->key_len > GC_MAX_KEY_BYTES)
	{
		gc_fail(err, GC_ERROR_LIMIT, "54000", "record key is too large");
		gc_detail(err, "It has %zu bytes, at most %d are allowed.", in->key_len, GC_MAX_KEY_BYTES);
		return false;
	}
	if (in->nheaders > GC_MAX_HEADERS)
		return gc_fail(err, GC_ERROR_LIMIT, "54000", "record has %d headers, at most %d are allowed",
					   in->nheaders, GC_MAX_HEADERS);
	for (int i = 0; i < in->nheaders; i++)
		bytes += strlen(in->headers[i].name) + in->headers[i].value_len;
	if (bytes > GC_MAX_HEADER_BYTES)
		return gc_fail(err, GC_ERROR_LIMIT, "54000", "record has %zu bytes of headers, at most %d are allowed",
					   bytes, GC_MAX_HEADER_BYTES);
	return in->value == NULL || gc_json_check_text("payload", in->value, in->value_len, err);
}

/* A record that its headers give to somebody else is not looked into: it may be anything. */
static bool
headers_refuse(Record *record)
{
	GcMapping  *map = record->map;

	if (record->in->nheaders > GC_MAX_HEADERS)
		return false;
	for (int i = 0; i < map->nconditions; i++)
	{
		GcCondition *condition = &map->conditions[i];
		GcJsonValue value;

		if (condition->source.kind != GC_SOURCE_HEADER)
			continue;
		if (!read_source(record, &condition->source, &value))
		{
			record->out->error.kind = GC_ERROR_NONE;
			return false;		/* said again in its turn */
		}
		if (!equals(&value, &condition->expected))
		{
			record->out->status = GC_DECODE_FILTERED;
			return true;
		}
	}
	return false;
}

GcDecodeStatus
gc_decode(GcMapping *map, const GcDecodeInput *in, GcDecoded *out)
{
	Record		record = {.map = map, .in = in, .out = out, .source_us = GC_NO_TIMESTAMP};
	bool		ok PG_USED_FOR_ASSERTS_ONLY;
#ifndef FRONTEND
	MemoryContext old = MemoryContextSwitchTo((MemoryContext) map->context);
#endif

	gc_arena_reset(&map->record);
	memset(map->fields, 0, sizeof(GcField) * map->ncolumns);
	out->status = GC_DECODE_BAD;
	out->fields = map->fields;
	out->version_us = 0;
	out->error.kind = GC_ERROR_NONE;
	out->error.message[0] = out->error.detail[0] = out->error.hint[0] = '\0';

	ok = !headers_refuse(&record) && check_sizes(&record) &&
		(map->envelope == GC_ENVELOPE_DEBEZIUM ? decode_debezium(&record) : decode_plain(&record));
	Assert(ok == (out->error.kind == GC_ERROR_NONE) || out->status == GC_DECODE_FILTERED);

	/* What one huge record needed is given back. */
	if (map->scratch.maxlen > 1024 * 1024)
	{
		pfree(map->scratch.data);
		initStringInfo(&map->scratch);
	}
#ifndef FRONTEND
	MemoryContextSwitchTo(old);
#endif
	return out->status;
}

/*
 * Elements of an array
 */

struct GcElements
{
	GcArena		arena;
	GcJsonScanner scanner;
	GcJsonIter	iter;
	const char *json;			/* set while the one value that is no array waits */
	size_t		len;
};

GcElements *
gc_elements_begin(const char *json, size_t len, GcDecodeError *err)
{
	GcElements *elements = palloc0(sizeof(GcElements));

	memset(err, 0, sizeof(*err));
	gc_arena_init(&elements->arena);
	gc_json_scanner_init(&elements->scanner, &elements->arena);
	if (len > GC_MAX_VALUE_BYTES_LIMIT)
	{
		gc_fail(err, GC_ERROR_LIMIT, "54000", "payload is too large");
		gc_detail(err, "It has %zu bytes, at most %d are allowed.", len, GC_MAX_VALUE_BYTES_LIMIT);
	}
	else if (gc_json_check_text("payload", json, len, err) &&
			 gc_json_scan(&elements->scanner, "payload", json, len, NULL, NULL, 0, false, err))
	{
		gc_json_iter_begin(&elements->iter, &elements->scanner, json, len);
		if (elements->iter.type != GC_JSON_ARRAY)
			elements->json = json;
		elements->len = len;
		return elements;
	}
	gc_elements_free(elements);
	return NULL;
}

bool
gc_elements_next(GcElements *elements, const char **value, size_t *value_len)
{
	GcJsonValue name;
	GcJsonValue element;

	if (elements->iter.type != GC_JSON_ARRAY)
	{
		*value = elements->json;
		*value_len = elements->len;
		elements->json = NULL;
		return *value != NULL;
	}
	if (!gc_json_iter_next(&elements->iter, &name, &element))
		return false;
	gc_arena_reset(&elements->arena);
	*value = element.raw;
	*value_len = element.raw_len;
	return true;
}

void
gc_elements_free(GcElements *elements)
{
	gc_json_scanner_free(&elements->scanner);
	gc_arena_free(&elements->arena);
	pfree(elements);
}
