/*
 * json_scan.c: PostgreSQL's JSON lexer under a loop that does not recurse.
 *
 * pg_parse_json is of no use for payloads from outside: in a program it runs
 * off the stack at 100,000 brackets, on PostgreSQL 15 it cannot be told a depth,
 * and neither it nor the lexer looks at the encoding.  So the text is verified first,
 * the lexer splits it into tokens, and the loop below knows the grammar, counts the
 * depth and notices the values that a mapping wants on the way.
 */
#include "json_scan.h"

#include "mb/pg_wchar.h"

#include "compat.h"

/* What the grammar allows next. */
typedef enum Expect
{
	EXPECT_VALUE,
	EXPECT_VALUE_OR_END,		/* behind [ */
	EXPECT_NAME,				/* behind , in an object */
	EXPECT_NAME_OR_END,			/* behind { */
	EXPECT_COLON,
	EXPECT_COMMA_OR_END,
	EXPECT_NOTHING
} Expect;

void
gc_json_scanner_init(GcJsonScanner *scanner, GcArena *arena)
{
	memset(scanner, 0, sizeof(*scanner));
	scanner->plain = gc_json_lexer_make(false);
	scanner->escaped = gc_json_lexer_make(true);
	scanner->arena = arena;
}

void
gc_json_scanner_free(GcJsonScanner *scanner)
{
	gc_json_lexer_free(scanner->plain);
	gc_json_lexer_free(scanner->escaped);
}

bool
gc_json_check_text(const char *what, const char *text, size_t len, GcDecodeError *err)
{
	int			valid = pg_encoding_verifymbstr(PG_UTF8, text, (int) len);
	char		bytes[3 * 4 + 1] = "";

	if (valid == (int) len)
		return true;
	for (size_t i = valid; i < len && i < (size_t) valid + 4; i++)
		sprintf(bytes + strlen(bytes), " %02x", (unsigned char) text[i]);
	gc_fail(err, GC_ERROR_ENCODING, "22021", "%s is not valid UTF-8 at byte %d", what, valid);
	if (text[valid] == '\0')
		gc_detail(err, "There is a NUL byte.");
	else
		gc_detail(err, "The bytes there are%s.", bytes);
	return false;
}

JsonLexContext *
gc_json_aim(GcJsonScanner *scanner, const char *json, size_t len)
{
	bool		escapes = memchr(json, '\\', len) != NULL;
	JsonLexContext *lex = escapes ? scanner->escaped : scanner->plain;

	lex->input = lex->token_terminator = lex->line_start = (char *) json;
	lex->token_start = lex->prev_token_terminator = NULL;
	lex->input_length = (int) len;
	lex->line_number = 1;
	return lex;
}

void
gc_json_string(JsonLexContext *lex, const char **text, size_t *len)
{
	if (lex->strval)
	{
		*text = lex->strval->data;
		*len = lex->strval->len;
	}
	else
	{
		*text = lex->token_start + 1;
		*len = lex->token_terminator - lex->token_start - 2;
	}
}

/* A number that would cost more to compute with than to send. */
static bool
number_too_large(const char *p, const char *end)
{
	int			digits = 0;

	for (; p < end && *p != 'e' && *p != 'E'; p++)
		if (*p >= '0' && *p <= '9')
			digits++;
	if (digits > GC_MAX_NUMBER_DIGITS)
		return true;
	if (p < end)
	{
		int			exponent = 0;

		for (p++; p < end; p++)
			if (*p >= '0' && *p <= '9' &&
				(exponent = exponent * 10 + (*p - '0')) > GC_MAX_NUMBER_EXPONENT)
				return true;
	}
	return false;
}

/* The token that the lexer stands on, as a value; type says what it is. */
static void
fill_scalar(GcJsonScanner *scanner, JsonLexContext *lex, GcJsonType type, GcJsonValue *value)
{
	value->type = type;
	value->raw = value->text = lex->token_start;
	value->raw_len = value->text_len = lex->token_terminator - lex->token_start;
	if (type == GC_JSON_STRING)
	{
		gc_json_string(lex, &value->text, &value->text_len);
		if (lex->strval)
			value->text = gc_arena_text(scanner->arena, value->text, value->text_len);
	}
}

/* Forgets the values at and below a place: a name is met again, and the last one wins. */
static void
forget(const GcPath *path, GcJsonValue *slots)
{
	if (path->slot >= 0)
		slots[path->slot].type = GC_JSON_ABSENT;
	if (path->alias >= 0)
		slots[path->alias].type = GC_JSON_ABSENT;
	for (int i = 0; i < path->nchildren; i++)
		forget(path->child[i], slots);
}

static inline void
keep(const GcPath *path, GcJsonValue *slots, const GcJsonValue *value)
{
	if (path->slot >= 0)
		slots[path->slot] = *value;
	if (path->alias >= 0)
		slots[path->alias] = *value;
}

/* Remembers the name of a member of the root object that no column takes. */
static void
add_rest(GcJsonScanner *scanner, JsonLexContext *lex)
{
	GcJsonMember *member;

	if (scanner->nrest == scanner->rest_size)
	{
		int			size = Max(scanner->rest_size * 2, 16);
		GcJsonMember *more = gc_arena_alloc(scanner->arena, sizeof(GcJsonMember) * size);

		if (scanner->nrest > 0)
			memcpy(more, scanner->rest, sizeof(GcJsonMember) * scanner->nrest);
		scanner->rest = more;
		scanner->rest_size = size;
	}
	member = &scanner->rest[scanner->nrest++];
	member->name = lex->token_start;
	member->name_len = lex->token_terminator - lex->token_start;
	member->value = NULL;
	member->value_len = 0;
}

/* The lexer refuses a token. */
static bool
lexer_fails(const char *what, JsonLexContext *lex, JsonParseErrorType type, GcDecodeError *err)
{
	const char *end = lex->input + lex->input_length;
	const char *at = lex->token_start ? lex->token_start : end;
	int			byte = (int) (at - lex->input);
	char		quote[GC_QUOTE_SIZE];

	switch (type)
	{
		case JSON_UNICODE_CODE_POINT_ZERO:
			gc_fail(err, GC_ERROR_ENCODING, "22021",
					"%s has the escape \\u0000 in the string at byte %d", what, byte);
			gc_detail(err, "A text of PostgreSQL cannot hold a NUL.");
			return false;
		case JSON_UNICODE_HIGH_SURROGATE:
		case JSON_UNICODE_LOW_SURROGATE:
			gc_fail(err, GC_ERROR_ENCODING, "22021",
					"%s has half of a surrogate pair in the string at byte %d", what, byte);
			return false;
		case JSON_ESCAPING_REQUIRED:
			return gc_fail(err, GC_ERROR_SYNTAX, "22P02",
						   "%s is not valid JSON: control character in the string at byte %d",
						   what, byte);
		case JSON_ESCAPING_INVALID:
		case JSON_UNICODE_ESCAPE_FORMAT:
			return gc_fail(err, GC_ERROR_SYNTAX, "22P02",
						   "%s is not valid JSON: bad escape in the string at byte %d", what, byte);
		default:
			break;
	}
	if (lex->token_start && *lex->token_start == '"')
		return gc_fail(err, GC_ERROR_SYNTAX, "22P02",
					   "%s is not valid JSON: the string at byte %d has no end", what, byte);
	gc_fail(err, GC_ERROR_SYNTAX, "22P02", "%s is not valid JSON at byte %d", what, byte);
	if (byte == 0 && end - at >= 3 && memcmp(at, "\xEF\xBB\xBF", 3) == 0)
		gc_detail(err, "It starts with a byte order mark.");
	else
		gc_detail(err, "It goes on with \"%s\".", gc_quote(quote, at, end - at));
	return false;
}

/* A good token in the wrong place. */
static bool
grammar_fails(const char *what, JsonLexContext *lex, Expect expect, bool in_object,
			  GcDecodeError *err)
{
	static const char *const expected[] = {
		[EXPECT_VALUE] = "a value",
		[EXPECT_VALUE_OR_END] = "a value or \"]\"",
		[EXPECT_NAME] = "a string as name",
		[EXPECT_NAME_OR_END] = "a string as name or \"}\"",
		[EXPECT_COLON] = "\":\"",
		[EXPECT_NOTHING] = "nothing more",
	};
	const char *wanted = expect == EXPECT_COMMA_OR_END ?
		(in_object ? "\",\" or \"}\"" : "\",\" or \"]\"") : expected[expect];
	const char *end = lex->input + lex->input_length;
	char		quote[GC_QUOTE_SIZE];

	if (lex->token_type == JSON_TOKEN_END)
		return gc_fail(err, GC_ERROR_SYNTAX, "22P02",
					   "%s is not valid JSON: it ends where %s is expected", what, wanted);
	gc_fail(err, GC_ERROR_SYNTAX, "22P02", "%s is not valid JSON: expected %s at byte %d",
			what, wanted, (int) (lex->token_start - lex->input));
	gc_detail(err, "It goes on with \"%s\".",
			  gc_quote(quote, lex->token_start, end - lex->token_start));
	return false;
}

/* Where the value of the member belongs whose name the lexer stands on. */
static GcPath *
enter_member(GcJsonScanner *scanner, JsonLexContext *lex, GcPath *path, GcJsonValue *slots)
{
	GcPath	   *place;
	const char *name;
	size_t		len;

	if (path == NULL)
		return NULL;
	gc_json_string(lex, &name, &len);
	place = gc_path_find_member(path, name, len);
	if (place == NULL)
		place = gc_path_find_alias(path, name, len);
	if (place)
		forget(place, slots);
	return place;
}

/*
 * The object that begins here has the bytes of the one before, so its end is known. A bracket ends it, so
 * whatever follows, the lexer would have taken it apart in the same way.
 */
static bool
same_as_before(const JsonLexContext *lex, const GcRepeat *before, int depth)
{
	size_t		left = lex->input + lex->input_length - lex->token_start;

	return before->len > 0 && before->depth == depth && before->len <= left &&
		memcmp(lex->token_start, before->text, before->len) == 0;
}

static void
remember(GcRepeat *before, const GcJsonValue *value, int depth)
{
	before->len = 0;
	if (value->raw_len > GC_MAX_REPEAT)
		return;
	if (value->raw_len > before->room)
	{
		before->room = Max(value->raw_len, before->room * 2);
		before->text = gc_arena_alloc(before->arena, before->room);
	}
	memcpy(before->text, value->raw, value->raw_len);
	before->len = value->raw_len;
	before->depth = depth;
}

bool
gc_json_scan(GcJsonScanner *scanner, const char *what, const char *json, size_t len,
			 GcPath *root, GcJsonValue *slots, int nslots, bool rest, GcDecodeError *err)
{
	JsonLexContext *lex = gc_json_aim(scanner, json, len);
	Expect		expect = EXPECT_VALUE;
	int			depth = 0;		/* open brackets; frames[depth - 1] is the innermost */
	GcJsonFrame *frame = NULL;
	GcPath	   *place = root;	/* where the next value belongs */
	bool		rest_open = false;	/* the next value of the root object is rest[nrest - 1]'s */

	for (int i = 0; i < nslots; i++)
		slots[i].type = GC_JSON_ABSENT;
	scanner->members = scanner->nrest = 0;
	scanner->rest_size = 0;
	scanner->rest = NULL;
	if (len == 0)
		return gc_fail(err, GC_ERROR_SYNTAX, "22P02", "%s is empty", what);

	for (;;)
	{
		JsonParseErrorType result = json_lex(lex);
		GcJsonValue value;

		if (result != JSON_SUCCESS)
			return lexer_fails(what, lex, result, err);

		/* Punctuation, names and the end; what is left behind the switch is a value. */
		value.type = GC_JSON_ABSENT;
		switch (lex->token_type)
		{
			case JSON_TOKEN_END:
				if (expect != EXPECT_NOTHING)
					return grammar_fails(what, lex, expect, frame && frame->is_object, err);
				return true;
			case JSON_TOKEN_COLON:
				if (expect != EXPECT_COLON)
					break;
				expect = EXPECT_VALUE;
				place = frame->next;
				continue;
			case JSON_TOKEN_COMMA:
				if (expect != EXPECT_COMMA_OR_END)
					break;
				expect = frame->is_object ? EXPECT_NAME : EXPECT_VALUE;
				if (!frame->is_object)
				{
					frame->element++;
					place = frame->path && frame->path->has_elements ?
						gc_path_find_element(frame->path, frame->element) : NULL;
				}
				continue;
			case JSON_TOKEN_STRING:
				if (expect == EXPECT_NAME || expect == EXPECT_NAME_OR_END)
				{
					frame->next = enter_member(scanner, lex, frame->path, slots);
					if (depth == 1)
					{
						scanner->members++;
						rest_open = rest && !(frame->next && frame->next->taken);
						if (rest_open)
							add_rest(scanner, lex);
					}
					expect = EXPECT_COLON;
					continue;
				}
				value.type = GC_JSON_STRING;
				break;
			case JSON_TOKEN_NUMBER:
				if (number_too_large(lex->token_start, lex->token_terminator))
				{
					gc_fail(err, GC_ERROR_NUMBER, "22003", "%s has a number out of range at byte %d",
							what, (int) (lex->token_start - lex->input));
					gc_detail(err, "A number may have %d digits and an exponent between -%d and %d.",
							  GC_MAX_NUMBER_DIGITS, GC_MAX_NUMBER_EXPONENT, GC_MAX_NUMBER_EXPONENT);
					return false;
				}
				value.type = GC_JSON_NUMBER;
				break;
			case JSON_TOKEN_TRUE:
				value.type = GC_JSON_TRUE;
				break;
			case JSON_TOKEN_FALSE:
				value.type = GC_JSON_FALSE;
				break;
			case JSON_TOKEN_NULL:
				value.type = GC_JSON_NULL;
				break;
			case JSON_TOKEN_OBJECT_START:
			case JSON_TOKEN_ARRAY_START:
				if (expect != EXPECT_VALUE && expect != EXPECT_VALUE_OR_END)
					break;
				if (depth == GC_MAX_DEPTH)
				{
					gc_fail(err, GC_ERROR_LIMIT, "54000", "%s is nested too deeply at byte %d",
							what, (int) (lex->token_start - lex->input));
					gc_detail(err, "Objects and arrays may be nested %d deep.", GC_MAX_DEPTH);
					return false;
				}
				if (place && place->repeat && same_as_before(lex, place->repeat, depth))
				{
					value.type = GC_JSON_OBJECT;
					value.raw = value.text = lex->token_start;
					value.raw_len = value.text_len = place->repeat->len;
					lex->token_terminator = lex->token_start + value.raw_len;
					break;
				}
				frame = &scanner->frames[depth++];
				frame->start = lex->token_start;
				frame->path = place;
				frame->is_object = lex->token_type == JSON_TOKEN_OBJECT_START;
				frame->element = 0;
				expect = frame->is_object ? EXPECT_NAME_OR_END : EXPECT_VALUE_OR_END;
				if (!frame->is_object)
					place = place && place->has_elements ? gc_path_find_element(place, 0) : NULL;
				continue;
			case JSON_TOKEN_OBJECT_END:
			case JSON_TOKEN_ARRAY_END:
				if (depth == 0 || frame->is_object != (lex->token_type == JSON_TOKEN_OBJECT_END) ||
					(expect != EXPECT_COMMA_OR_END &&
					 expect != (frame->is_object ? EXPECT_NAME_OR_END : EXPECT_VALUE_OR_END)))
					break;
				value.type = frame->is_object ? GC_JSON_OBJECT : GC_JSON_ARRAY;
				value.raw = value.text = frame->start;
				value.raw_len = value.text_len = lex->token_terminator - frame->start;
				place = frame->path;
				depth--;
				if (place && place->repeat && value.type == GC_JSON_OBJECT)
					remember(place->repeat, &value, depth);
				frame = depth > 0 ? &scanner->frames[depth - 1] : NULL;
				expect = EXPECT_VALUE;	/* it is allowed here: it was when it began */
				break;
			default:
				break;
		}
		if (value.type == GC_JSON_ABSENT ||
			(expect != EXPECT_VALUE && expect != EXPECT_VALUE_OR_END))
			return grammar_fails(what, lex, expect, frame && frame->is_object, err);

		/* A whole value has been read. */
		if (place && (place->slot >= 0 || place->alias >= 0))
		{
			if (value.type < GC_JSON_OBJECT)
				fill_scalar(scanner, lex, value.type, &value);
			keep(place, slots, &value);
		}
		if (depth == 1 && rest_open)
		{
			GcJsonMember *member = &scanner->rest[scanner->nrest - 1];
			bool		bracket = value.type >= GC_JSON_OBJECT;

			member->value = bracket ? value.raw : lex->token_start;
			member->value_len = lex->token_terminator - member->value;
			rest_open = false;
		}
		expect = depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
	}
}

/* Reads over the value whose first token the lexer stands on. */
static void
skip_value(JsonLexContext *lex)
{
	int			depth = 0;

	for (;;)
	{
		if (lex->token_type == JSON_TOKEN_OBJECT_START || lex->token_type == JSON_TOKEN_ARRAY_START)
			depth++;
		else if (lex->token_type == JSON_TOKEN_OBJECT_END || lex->token_type == JSON_TOKEN_ARRAY_END)
			depth--;
		if (depth == 0)
			return;
		if (json_lex(lex) != JSON_SUCCESS || lex->token_type == JSON_TOKEN_END)
			return;				/* cannot happen: it has been scanned */
	}
}

static GcJsonType
token_value_type(JsonTokenType token)
{
	switch (token)
	{
		case JSON_TOKEN_OBJECT_START:
			return GC_JSON_OBJECT;
		case JSON_TOKEN_ARRAY_START:
			return GC_JSON_ARRAY;
		case JSON_TOKEN_STRING:
			return GC_JSON_STRING;
		case JSON_TOKEN_NUMBER:
			return GC_JSON_NUMBER;
		case JSON_TOKEN_TRUE:
			return GC_JSON_TRUE;
		case JSON_TOKEN_FALSE:
			return GC_JSON_FALSE;
		case JSON_TOKEN_NULL:
			return GC_JSON_NULL;
		default:
			return GC_JSON_ABSENT;
	}
}

/* Reads the value whose first token the lexer stands on. */
static void
read_value(GcJsonIter *iter, GcJsonValue *value)
{
	JsonLexContext *lex = iter->lex;
	GcJsonType	type = token_value_type(lex->token_type);

	if (type < GC_JSON_OBJECT)
		fill_scalar(iter->scanner, lex, type, value);
	else
	{
		const char *start = lex->token_start;

		skip_value(lex);
		value->type = type;
		value->raw = value->text = start;
		value->raw_len = value->text_len = lex->token_terminator - start;
	}
}

void
gc_json_iter_begin(GcJsonIter *iter, GcJsonScanner *scanner, const char *json, size_t len)
{
	iter->scanner = scanner;
	iter->lex = gc_json_aim(scanner, json, len);
	iter->done = json_lex(iter->lex) != JSON_SUCCESS;
	iter->type = token_value_type(iter->lex->token_type);
}

bool
gc_json_iter_next(GcJsonIter *iter, GcJsonValue *name, GcJsonValue *value)
{
	JsonLexContext *lex = iter->lex;

	if (iter->done)
		return false;
	if (iter->type < GC_JSON_OBJECT)
	{
		iter->done = true;
		read_value(iter, value);
		return true;
	}

	/* The lexer stands on the bracket, or on the end of the value before: a comma may follow. */
	json_lex(lex);
	if (lex->token_type == JSON_TOKEN_COMMA)
		json_lex(lex);
	if (lex->token_type == JSON_TOKEN_OBJECT_END || lex->token_type == JSON_TOKEN_ARRAY_END ||
		lex->token_type == JSON_TOKEN_END)
	{
		iter->done = true;
		return false;
	}
	if (iter->type == GC_JSON_OBJECT)
	{
		fill_scalar(iter->scanner, lex, GC_JSON_STRING, name);
		json_lex(lex);			/* the colon */
		json_lex(lex);
	}
	read_value(iter, value);
	return true;
}
