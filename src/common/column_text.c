/*
 * column_text.c: a JSON value becomes the text of a column.
 *
 * Called for each column of each record, after the payload has been scanned.
 * Texts live in the mapping's record arena.  Fails with GC_ERROR_TYPE,
 * GC_ERROR_TIME or GC_ERROR_UNAVAILABLE about one field.
 */
#include "mapping.h"

static const char *const type_names[] = {
	[GC_JSON_ABSENT] = "absent",
	[GC_JSON_NULL] = "null",
	[GC_JSON_FALSE] = "a boolean",
	[GC_JSON_TRUE] = "a boolean",
	[GC_JSON_NUMBER] = "a number",
	[GC_JSON_STRING] = "a string",
	[GC_JSON_OBJECT] = "an object",
	[GC_JSON_ARRAY] = "an array",
};

/*
 * Debezium writes this where the source did not send a large value that had
 * not changed; the second is the same in base64, for bytea.
 */
static bool
is_unavailable(const char *text, size_t len)
{
	static const char plain[] = "__debezium_unavailable_value";
	static const char base64[] = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";

	return (len == sizeof(plain) - 1 && memcmp(text, plain, len) == 0) ||
		(len == sizeof(base64) - 1 && memcmp(text, base64, len) == 0);
}

static bool
unavailable(const char *from, GcDecodeError *err)
{
	gc_fail(err, GC_ERROR_UNAVAILABLE, "22000", "field \"%s\" was not sent by the source", from);
	gc_detail(err, "It holds Debezium's placeholder for a large value that did not change.");
	gc_hint(err, "Run ALTER TABLE ... REPLICA IDENTITY FULL on the source table, so that every record is the full state.");
	return false;
}

static bool
wrong_type(const GcBinding *binding, const char *from, GcJsonType type, const char *wanted,
		   GcDecodeError *err)
{
	return gc_fail(err, GC_ERROR_TYPE, "22023", "field \"%s\" is %s, but column \"%s\" needs %s",
				   from, type_names[type], binding->column.name, wanted);
}

static void
set_text(GcMapping *map, GcField *field, const char *text, size_t len)
{
	field->state = GC_FIELD_TEXT;
	field->text = gc_arena_text(&map->record, text, len);
	field->len = len;
}

/* Reads a time and writes it into buf; returns the length, 0 = failed. */
static int
time_text(const GcBinding *binding, GcColumnKind kind, const char *from, GcJsonType type,
		  const char *text, size_t len, char *buf, int64 *us, GcDecodeError *err)
{
	const char *reason;
	bool		range;
	char		quote[GC_QUOTE_SIZE];

	if (type != GC_JSON_STRING && type != GC_JSON_NUMBER)
	{
		wrong_type(binding, from, type, "a time", err);
		return 0;
	}
	reason = gc_time_parse(text, len, &binding->source.rule, kind, us, &range);
	if (reason == NULL && binding->column.is_version && type == GC_JSON_NUMBER &&
		!gc_time_plausible(*us))
	{
		reason = "as a version it must be between 1990 and 2200";
		range = true;
	}
	if (reason == NULL)
		return gc_time_format(*us, kind, buf);
	gc_fail(err, GC_ERROR_TIME, range ? "22008" : "22007", "field \"%s\" is not a time: %s", from, reason);
	gc_detail(err, "Column \"%s\" is to take \"%s\".", binding->column.name, gc_quote(quote, text, len));
	return 0;
}

bool
gc_time_text(GcMapping *map, const GcBinding *binding, int64 us, GcField *field, GcDecodeError *err)
{
	char		buf[GC_TIME_TEXT_SIZE];

	if (binding->column.is_version ? !gc_time_plausible(us) : !gc_time_in_range(us))
	{
		gc_fail(err, GC_ERROR_TIME, "22008", "the record's time cannot be taken for column \"%s\"",
				binding->column.name);
		gc_detail(err, "It is " INT64_FORMAT " microseconds since 1970.", us);
		return false;
	}
	set_text(map, field, buf, gc_time_format(us, binding->column.kind, buf));
	return true;
}

/* A JSON string out of a plain text. */
static void
append_json_string(StringInfo out, const char *text, size_t len)
{
	appendStringInfoChar(out, '"');
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		if (c == '"' || c == '\\')
			appendStringInfoChar(out, '\\');
		if (c < 0x20)
			appendStringInfo(out, "\\u%04x", c);
		else
			appendStringInfoChar(out, c);
	}
	appendStringInfoChar(out, '"');
}

/* An element of an array literal, always quoted. */
static void
append_element(StringInfo out, const char *text, size_t len)
{
	appendStringInfoChar(out, '"');
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '"' || text[i] == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, text[i]);
	}
	appendStringInfoChar(out, '"');
}

/*
 * The array literal of a JSON array.  Brackets and commas of both languages stand in
 * the same places, so one pass over the tokens does it; the text has been scanned.
 */
static bool
append_array(GcMapping *map, const GcBinding *binding, const char *from, const GcJsonValue *value,
			 GcDecodeError *err)
{
	JsonLexContext *lex = gc_json_aim(&map->scanner, value->raw, value->raw_len);
	StringInfo	out = &map->scratch;
	GcColumnKind kind = binding->column.element;
	char		buf[GC_TIME_TEXT_SIZE];

	for (;;)
	{
		GcJsonType	type = GC_JSON_NUMBER;
		const char *text;
		size_t		len;

		if (json_lex(lex) != JSON_SUCCESS || lex->token_type == JSON_TOKEN_END)
			return true;
		if (out->len > GC_MAX_VALUE_BYTES_LIMIT)
			return gc_fail(err, GC_ERROR_LIMIT, "54000", "field \"%s\" is too large as an array", from);
		text = lex->token_start;
		len = lex->token_terminator - lex->token_start;
		switch (lex->token_type)
		{
			case JSON_TOKEN_ARRAY_START:
				appendStringInfoChar(out, '{');
				continue;
			case JSON_TOKEN_ARRAY_END:
				appendStringInfoChar(out, '}');
				continue;
			case JSON_TOKEN_COMMA:
				appendStringInfoChar(out, ',');
				continue;
			case JSON_TOKEN_NULL:
				appendStringInfoString(out, "NULL");
				continue;
			case JSON_TOKEN_OBJECT_START:
				if (kind != GC_KIND_JSON && kind != GC_KIND_TEXT)
					return wrong_type(binding, from, GC_JSON_OBJECT, "an array of scalars", err);
				for (int depth = 1; depth > 0 && json_lex(lex) == JSON_SUCCESS;)
					depth += lex->token_type == JSON_TOKEN_OBJECT_START ? 1 :
						lex->token_type == JSON_TOKEN_OBJECT_END ? -1 : 0;
				append_element(out, text, lex->token_terminator - text);
				continue;
			case JSON_TOKEN_STRING:
				type = GC_JSON_STRING;
				if (kind != GC_KIND_JSON)
					gc_json_string(lex, &text, &len);
				break;
			case JSON_TOKEN_TRUE:
			case JSON_TOKEN_FALSE:
				type = GC_JSON_TRUE;
				break;
			default:
				break;
		}
		if (kind == GC_KIND_TIMESTAMPTZ || kind == GC_KIND_TIMESTAMP || kind == GC_KIND_DATE)
		{
			int64		us;

			len = time_text(binding, kind, from, type, text, len, buf, &us, err);
			if (len == 0)
				return false;
			text = buf;
		}
		append_element(out, text, len);
	}
}

bool
gc_column_text(GcMapping *map, const GcBinding *binding, const char *from, const GcJsonValue *value,
			   GcField *field, int64 *us, GcDecodeError *err)
{
	char		buf[GC_TIME_TEXT_SIZE];
	int			len;

	if (value->type == GC_JSON_ABSENT || value->type == GC_JSON_NULL)
	{
		field->state = value->type == GC_JSON_NULL ? GC_FIELD_NULL : GC_FIELD_ABSENT;
		return true;
	}
	if (value->type == GC_JSON_STRING && is_unavailable(value->text, value->text_len))
		return unavailable(from, err);

	switch (binding->column.kind)
	{
		case GC_KIND_TEXT:
		case GC_KIND_OTHER:
			set_text(map, field, value->text, value->text_len);
			return true;
		case GC_KIND_JSON:
			if (value->raw)
				set_text(map, field, value->raw, value->raw_len);
			else
			{
				resetStringInfo(&map->scratch);
				append_json_string(&map->scratch, value->text, value->text_len);
				set_text(map, field, map->scratch.data, map->scratch.len);
			}
			return true;
		case GC_KIND_ARRAY:
			if (value->type != GC_JSON_ARRAY)
				return wrong_type(binding, from, value->type, "an array", err);
			resetStringInfo(&map->scratch);
			if (!append_array(map, binding, from, value, err))
				return false;
			set_text(map, field, map->scratch.data, map->scratch.len);
			return true;
		case GC_KIND_TIMESTAMPTZ:
		case GC_KIND_TIMESTAMP:
		case GC_KIND_DATE:
			len = time_text(binding, binding->column.kind, from, value->type, value->text,
							value->text_len, buf, us, err);
			if (len == 0)
				return false;
			set_text(map, field, buf, len);
			return true;
	}
	return false;				/* no such kind */
}

bool
gc_unmapped_text(GcMapping *map, const GcJsonMember *rest, int nrest, GcField *field,
				 GcDecodeError *err)
{
	size_t		size = 2;
	char	   *to;

	field->state = GC_FIELD_ABSENT;
	if (nrest == 0)
		return true;
	for (int i = 0; i < nrest; i++)
		size += rest[i].name_len + rest[i].value_len + 2;
	to = field->text = gc_arena_alloc(&map->record, size);
	for (int i = 0; i < nrest; i++)
	{
		const GcJsonMember *member = &rest[i];

		if (*member->value == '"' && is_unavailable(member->value + 1, member->value_len - 2))
		{
			char		quote[GC_QUOTE_SIZE];

			return unavailable(gc_quote(quote, member->name + 1, member->name_len - 2), err);
		}
		*to++ = i == 0 ? '{' : ',';
		memcpy(to, member->name, member->name_len);
		to += member->name_len;
		*to++ = ':';
		memcpy(to, member->value, member->value_len);
		to += member->value_len;
	}
	*to++ = '}';
	*to = '\0';
	field->state = GC_FIELD_TEXT;
	field->len = to - field->text;
	return true;
}
