/*
 * gc_decode_test.c: tries the payload decoder, built outside the server.
 *
 *		gc_decode_test CORPUS					runs every case, prints what fails, "decode: N passed, N failed"
 *		gc_decode_test --fuzz SECONDS SEED CORPUS	mutates the corpus' records
 *		gc_decode_test --bench SECONDS CORPUS	records a second, over the first upsert
 *
 * The corpus is text; its format stands at its top.
 */
#include "postgres_fe.h"

#include <time.h>

#include "common/decode.h"
#include "common/time_text.h"
#include "mb/pg_wchar.h"

#define MAX_COLUMNS 16
#define MAX_LINES	64
#define MAX_HEADERS 8

typedef struct Bytes
{
	char	   *data;			/* NULL = none */
	size_t		len;
} Bytes;

typedef struct Case
{
	char	   *name;
	int			line;
	GcDecodeColumn columns[MAX_COLUMNS];
	int			ncolumns;
	char	   *mapping;
	char	   *filter;
	GcEnvelope	envelope;
	Bytes		value;
	Bytes		key;
	GcHeader	headers[MAX_HEADERS];
	int			nheaders;
	int64		time;
	bool		deleted;
	char	   *status;			/* upsert, bad 22007 some words, ... */
	char	   *expect[MAX_LINES];	/* column = text, column null, column absent */
	int			nexpect;
} Case;

static Case *cases;
static int	ncases;
static int	failed;

static void
die(const char *what, int line)
{
	fprintf(stderr, "corpus line %d: %s\n", line, what);
	exit(2);
}

/*
 * Corpus
 */

/* \xHH is a byte, \*N(text) is text N times; everything else stands for itself. */
static Bytes
unescape(const char *text, int line)
{
	size_t		room = strlen(text) + 1;
	Bytes		out = {pg_malloc(room), 0};

	while (*text)
	{
		const char *piece = text;
		int			len = 1;
		int			times = 1;
		char		byte;

		if (text[0] == '\\' && text[1] == 'x')
		{
			unsigned int value;

			if (sscanf(text + 2, "%2x", &value) != 1)
				die("bad \\x", line);
			byte = (char) value;
			piece = &byte;
			text += 4;
		}
		else if (text[0] == '\\' && text[1] == '*')
		{
			char	   *open;
			const char *close;

			times = strtol(text + 2, &open, 10);
			close = *open == '(' ? strchr(open, ')') : NULL;
			if (close == NULL)
				die("bad \\*", line);
			piece = open + 1;
			len = (int) (close - piece);
			text = close + 1;
		}
		else
			text++;
		room += (size_t) len * times;
		out.data = pg_realloc(out.data, room);
		for (; times > 0; times--)
		{
			memcpy(out.data + out.len, piece, len);
			out.len += len;
		}
	}
	return out;
}

static GcColumnKind
kind_of(const char *word, int line)
{
	static const char *const words[] = {
		[GC_KIND_TEXT] = "text", [GC_KIND_OTHER] = "other", [GC_KIND_JSON] = "json",
		[GC_KIND_ARRAY] = "array", [GC_KIND_TIMESTAMPTZ] = "timestamptz",
		[GC_KIND_TIMESTAMP] = "timestamp", [GC_KIND_DATE] = "date"};

	for (int i = 0; i < lengthof(words); i++)
		if (strcmp(word, words[i]) == 0)
			return (GcColumnKind) i;
	die("unknown kind", line);
	return GC_KIND_TEXT;
}

/* "ref text key, tags text[], extra json unmapped" */
static void
read_columns(Case *c, char *text, int line)
{
	char	   *column;
	char	   *rest;

	c->ncolumns = 0;
	for (column = strtok_r(text, ",", &rest); column; column = strtok_r(NULL, ",", &rest))
	{
		GcDecodeColumn *to = &c->columns[c->ncolumns++];
		char	   *words;
		char	   *word = strtok_r(column, " ", &words);
		char	   *kind = strtok_r(NULL, " ", &words);
		size_t		len;

		if (c->ncolumns >= MAX_COLUMNS || kind == NULL)
			die("bad columns", line);
		memset(to, 0, sizeof(*to));
		to->name = pg_strdup(word);
		len = strlen(kind);
		if (len > 2 && strcmp(kind + len - 2, "[]") == 0)
		{
			kind[len - 2] = '\0';
			to->kind = GC_KIND_ARRAY;
			to->element = kind_of(kind, line);
		}
		else
			to->kind = kind_of(kind, line);
		while ((word = strtok_r(NULL, " ", &words)) != NULL)
		{
			to->is_key |= strcmp(word, "key") == 0;
			to->is_version |= strcmp(word, "version") == 0;
			to->is_unmapped |= strcmp(word, "unmapped") == 0;
		}
	}
}

/* The text behind a word at the start of a line, or NULL. */
static char *
after(char *text, const char *word)
{
	size_t		len = strlen(word);

	if (strncmp(text, word, len) != 0 || (text[len] != ' ' && text[len] != '\0'))
		return NULL;
	return text + len + (text[len] == ' ');
}

static void
read_line(Case *c, char *text, int line)
{
	char	   *rest;

	if ((rest = after(text, "columns")) != NULL)
		read_columns(c, rest, line);
	else if ((rest = after(text, "mapping")) != NULL)
		c->mapping = *rest ? pg_strdup(rest) : NULL;
	else if ((rest = after(text, "filter")) != NULL)
		c->filter = *rest ? pg_strdup(rest) : NULL;
	else if ((rest = after(text, "envelope")) != NULL)
		c->envelope = strcmp(rest, "debezium") == 0 ? GC_ENVELOPE_DEBEZIUM : GC_ENVELOPE_PLAIN;
	else if ((rest = after(text, "value")) != NULL)
		c->value = unescape(rest, line);
	else if ((rest = after(text, "key")) != NULL)
		c->key = unescape(rest, line);
	else if ((rest = after(text, "header")) != NULL)
	{
		char	   *equals = strchr(rest, '=');
		Bytes		value;

		if (c->nheaders == MAX_HEADERS || equals == NULL)
			die("bad header", line);
		*equals = '\0';
		value = unescape(equals + 1, line);
		c->headers[c->nheaders++] = (GcHeader)
		{
			pg_strdup(rest), value.data, value.len
		};
	}
	else if ((rest = after(text, "time")) != NULL)
		c->time = strtoll(rest, NULL, 10);
	else if (after(text, "deleted"))
		c->deleted = true;
	else if ((rest = after(text, "=>")) != NULL)
		c->status = pg_strdup(rest);
	else if (*text == '\t' && c->nexpect < MAX_LINES)
		c->expect[c->nexpect++] = pg_strdup(text + 1);
	else
		die(text, line);
}

static void
read_corpus(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char	   *text = NULL;
	size_t		room = 0;
	ssize_t		len;
	int			line = 0;
	Case		setup = {.time = GC_NO_TIMESTAMP};
	Case	   *c = &setup;

	if (file == NULL)
	{
		perror(path);
		exit(2);
	}
	while ((len = getline(&text, &room, file)) >= 0)
	{
		char	   *name;

		line++;
		if (len > 0 && text[len - 1] == '\n')
			text[--len] = '\0';
		if (len == 0 || *text == '#')
			continue;
		if (strcmp(text, "setup") == 0)
		{
			memset(&setup, 0, sizeof(setup));
			setup.time = GC_NO_TIMESTAMP;
			c = &setup;
		}
		else if ((name = after(text, "case")) != NULL)
		{
			cases = pg_realloc(cases, sizeof(Case) * (ncases + 1));
			c = &cases[ncases++];
			*c = setup;
			c->name = pg_strdup(name);
			c->line = line;
		}
		else
			read_line(c, text, line);
	}
	free(text);
	fclose(file);
}

/*
 * Running
 */

static GcMapping *
compile(const Case *c, GcDecodeError *err)
{
	GcMappingSpec spec = {
		.columns = c->columns, .ncolumns = c->ncolumns, .mapping = c->mapping,
		.filter = c->filter, .envelope = c->envelope
	};

	return gc_mapping_compile(&spec, err);
}

static void
fail(const Case *c, const char *what, const char *got)
{
	printf("line %d, %s: %s: %s\n", c->line, c->name, what, got);
	failed++;
}

/* "bad 22007 words" against a status and an error: the words must be in message, detail or hint. */
static bool
status_matches(const Case *c, const char *word, const GcDecodeError *err)
{
	size_t		len = strlen(word);
	char		all[1024];

	if (strncmp(c->status, word, len) != 0 || (c->status[len] != '\0' && c->status[len] != ' '))
		return false;
	if (c->status[len] == '\0')
		return true;
	snprintf(all, sizeof(all), "%s %s %s %s", err->sqlstate, err->message, err->detail, err->hint);
	if (strncmp(c->status + len + 1, err->sqlstate, 5) != 0)
		return false;
	return c->status[len + 6] == '\0' || strstr(all, c->status + len + 7) != NULL;
}

static void
check_field(const Case *c, const GcDecoded *row, char *expect)
{
	char	   *space = strchr(expect, ' ');
	char		got[4096];

	for (int i = 0; i < c->ncolumns; i++)
	{
		const GcField *field = &row->fields[i];
		size_t		len = strlen(c->columns[i].name);

		if (space == NULL || (size_t) (space - expect) != len ||
			strncmp(c->columns[i].name, expect, len) != 0)
			continue;
		if (field->state == GC_FIELD_TEXT)
			snprintf(got, sizeof(got), "%s = %s", c->columns[i].name, field->text);
		else
			snprintf(got, sizeof(got), "%s %s", c->columns[i].name,
					 field->state == GC_FIELD_NULL ? "null" : "absent");
		if (strcmp(got, expect) != 0)
		{
			fail(c, "expected", expect);
			printf("\tgot %s\n", got);
		}
		return;
	}
	fail(c, "no such column", expect);
}

static void
run_case(const Case *c)
{
	static const char *const words[] = {"upsert", "tombstone", "filtered", "ignored", "bad", "halt"};
	GcDecodeError err;
	GcMapping  *map = compile(c, &err);
	GcDecodeInput in = {
		.value = c->value.data, .value_len = c->value.len, .key = c->key.data,
		.key_len = c->key.len, .headers = c->headers, .nheaders = c->nheaders,
		.timestamp_us = c->time, .deleted = c->deleted
	};
	GcDecoded	row;
	char		got[1024];

	if (c->status == NULL)
		die("a case without =>", c->line);
	if (map == NULL)
	{
		snprintf(got, sizeof(got), "mapping-error %s %s / %s / %s", err.sqlstate, err.message, err.detail, err.hint);
		if (!status_matches(c, "mapping-error", &err))
			fail(c, c->status, got);
		return;
	}
	gc_decode(map, &in, &row);
	gc_decode(map, &in, &row);	/* what it has kept of the record before changes nothing */
	snprintf(got, sizeof(got), "%s %s %s / %s / %s", words[row.status], row.error.sqlstate,
			 row.error.message, row.error.detail, row.error.hint);
	if (!status_matches(c, words[row.status], &row.error))
		fail(c, c->status, got);
	else
		for (int i = 0; i < c->nexpect; i++)
			check_field(c, &row, c->expect[i]);
	gc_mapping_free(map);
}

/*
 * Fuzzing
 */

static uint64 seed_state;

/* xorshift64*: the same mutations everywhere for a seed. */
static uint32
any(uint32 below)
{
	seed_state ^= seed_state >> 12;
	seed_state ^= seed_state << 25;
	seed_state ^= seed_state >> 27;
	return (uint32) ((seed_state * UINT64CONST(2685821657736338717)) >> 33) % below;
}

/* A few random changes; the result has exactly its size, so that the sanitizer sees a step too far. */
static Bytes
mutate(const Bytes *from)
{
	static const char *const pieces[] = {
		"{", "}", "[", "]", ",", ":", "\"", "\\", "\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00",
		"null", "true", "1e400", "-0", "1.5e-9", "\xc3\xa9", "\xff", "\xed\xa0\x80", "\xf0\x9f\x98\x80",
		"2026-02-30T00:00:00Z", "0001-01-01T00:00:00+15:00", "1700000000", "1700000000123456789", "\"ref\":",
		"\"modifiedAt\":", "\"payload\":", "\"schema\":{},", "\"op\":\"d\",", "[[[[[[[["};
	Bytes		to = {pg_malloc(from->len + 4096), from->len};
	char	   *exact;

	if (from->len > 0)
		memcpy(to.data, from->data, from->len);
	for (uint32 n = any(4); n > 0 && to.len < from->len + 2048; n--)
	{
		size_t		at = any((uint32) to.len + 1);
		size_t		some = 1 + any(8);
		size_t		len = Min(some, to.len - at);	/* a macro: any() must not stand in it */
		const char *piece = pieces[any(lengthof(pieces))];
		size_t		piece_len = strlen(piece);

		switch (any(5))
		{
			case 0:
				if (at < to.len)
					to.data[at] ^= 1 << any(8);
				break;
			case 1:
				if (at < to.len)
					to.data[at] = (char) any(256);
				break;
			case 2:
				memmove(to.data + at, to.data + at + len, to.len - at - len);
				to.len -= len;
				break;
			case 3:
				to.len = at;
				break;
			default:
				memmove(to.data + at + piece_len, to.data + at, to.len - at);
				memcpy(to.data + at, piece, piece_len);
				to.len += piece_len;
		}
	}
	exact = pg_malloc(Max(to.len, 1));
	memcpy(exact, to.data, to.len);
	free(to.data);
	to.data = exact;
	return to;
}

static void
must(bool truth, const Case *c, const Bytes *value, const char *what)
{
	if (truth)
		return;
	printf("fuzz: %s, from case \"%s\" with value <%.*s>\n", what, c->name, (int) value->len, value->data);
	abort();
}

static bool
utf8(const char *text)
{
	return pg_encoding_verifymbstr(PG_UTF8, text, (int) strlen(text)) == (int) strlen(text);
}

static void
check_row(const Case *c, const Bytes *value, const GcDecoded *row)
{
	must(utf8(row->error.message) && utf8(row->error.detail) && utf8(row->error.hint), c, value,
		 "an error is not UTF-8");
	must((row->status == GC_DECODE_BAD || row->status == GC_DECODE_HALT) == (row->error.kind != GC_ERROR_NONE),
		 c, value, "status and error disagree");
	if (row->status != GC_DECODE_UPSERT && row->status != GC_DECODE_TOMBSTONE)
		return;
	for (int i = 0; i < c->ncolumns; i++)
	{
		const GcField *field = &row->fields[i];
		GcDecodeError err;

		if (c->columns[i].is_key || c->columns[i].is_version)
			must(field->state == GC_FIELD_TEXT, c, value, "no key or version");
		else if (row->status == GC_DECODE_TOMBSTONE)
			must(field->state == GC_FIELD_ABSENT, c, value, "a tombstone carries more than key and version");
		if (field->state != GC_FIELD_TEXT)
			continue;
		must(strlen(field->text) == field->len && utf8(field->text), c, value, "a text is not UTF-8");
		if (c->columns[i].kind == GC_KIND_JSON)
		{
			GcElements *elements = gc_elements_begin(field->text, field->len, &err);

			must(elements != NULL, c, value, "a jsonb text is not JSON");
			gc_elements_free(elements);
		}
		if (c->columns[i].kind == GC_KIND_TIMESTAMPTZ)
		{
			GcTimeRule	rule = {0};
			char		again[GC_TIME_TEXT_SIZE];
			int64		us;
			bool		range;

			must(gc_time_parse(field->text, field->len, &rule, GC_KIND_TIMESTAMPTZ, &us, &range) == NULL &&
				 gc_time_format(us, GC_KIND_TIMESTAMPTZ, again) == (int) field->len &&
				 strcmp(again, field->text) == 0, c, value, "a time is not read as it is written");
			if (c->columns[i].is_version)
				must(us == row->version_us, c, value, "the version's text and number differ");
		}
	}
}

static void
fuzz(int seconds, uint64 seed)
{
	GcMapping **maps = pg_malloc0(sizeof(GcMapping *) * ncases);
	time_t		end = time(NULL) + seconds;
	long		records = 0;
	long		good = 0;

	seed_state = seed * 2 + 1;
	for (int i = 0; i < ncases; i++)
	{
		GcDecodeError err;

		maps[i] = compile(&cases[i], &err);
	}
	while (time(NULL) < end)
	{
		for (int n = 0; n < 500; n++)
		{
			int			i = (int) any(ncases);
			const Case *c = &cases[i];
			const Case *other = &cases[any(ncases)];
			bool		tombstone = c->value.data == NULL;
			const Bytes *from_value = any(8) ? &c->value : &other->value;
			const Bytes *from_key = any(8) ? &c->key : &other->key;
			Bytes		value;
			Bytes		key;
			GcDecodeInput in = {
				.headers = c->headers, .nheaders = c->nheaders, .timestamp_us = c->time,
				.deleted = c->deleted
			};
			GcDecoded	row;
			GcDecodeStatus status;
			char	   *ref = NULL;

			/* The huge cases are for the corpus; here they would only cost time. */
			if (maps[i] == NULL || from_value->len > 10000 || from_key->len > 10000)
				continue;
			value = mutate(from_value);
			key = mutate(from_key);
			if (!tombstone)
			{
				in.value = value.data;
				in.value_len = value.len;
			}
			if (c->key.data)
			{
				in.key = key.data;
				in.key_len = key.len;
			}
			status = gc_decode(maps[i], &in, &row);
			check_row(c, &value, &row);
			good += status == GC_DECODE_UPSERT || status == GC_DECODE_TOMBSTONE;
			if (row.fields[0].state == GC_FIELD_TEXT)
				ref = pg_strdup(row.fields[0].text);
			must(gc_decode(maps[i], &in, &row) == status, c, &value, "the second answer differs");
			must(ref == NULL || strcmp(ref, row.fields[0].text) == 0, c, &value, "the second text differs");
			if (any(8) == 0)
			{
				GcDecodeError err;
				GcMapping  *fresh = compile(c, &err);
				GcDecoded	alone;

				must(gc_decode(fresh, &in, &alone) == status && strcmp(alone.error.message, row.error.message) == 0 &&
					 (ref == NULL || strcmp(ref, alone.fields[0].text) == 0), c, &value, "it depends on the records before");
				gc_mapping_free(fresh);
			}
			free(ref);
			records++;
			free(value.data);
			free(key.data);
		}
	}
	for (int i = 0; i < ncases; i++)
		if (maps[i])
			gc_mapping_free(maps[i]);
	free(maps);
	printf("fuzz: seed " UINT64_FORMAT ", %ld records, %ld of them accepted\n", seed, records, good);
}

static void
bench(int seconds)
{
	const Case *c = &cases[0];
	GcDecodeError err;
	GcMapping  *map = compile(c, &err);
	GcDecodeInput in = {.value = c->value.data, .value_len = c->value.len, .timestamp_us = c->time};
	GcDecoded	row;
	struct timespec start;
	struct timespec now;
	double		elapsed;
	long		records = 0;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do
	{
		for (int i = 0; i < 10000; i++)
			gc_decode(map, &in, &row);
		records += 10000;
		clock_gettime(CLOCK_MONOTONIC, &now);
		elapsed = (now.tv_sec - start.tv_sec) + (now.tv_nsec - start.tv_nsec) / 1e9;
	} while (elapsed < seconds);
	gc_mapping_free(map);
	printf("bench: %zu bytes, %.0f records/s, %.0f MB/s\n", c->value.len, records / elapsed,
		   records / elapsed * c->value.len / 1e6);
}

int
main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 5 && strcmp(argv[1], "--fuzz") == 0)
	{
		read_corpus(argv[4]);
		fuzz(atoi(argv[2]), strtoull(argv[3], NULL, 10));
		return 0;
	}
	if (argc == 4 && strcmp(argv[1], "--bench") == 0)
	{
		read_corpus(argv[3]);
		bench(atoi(argv[2]));
		return 0;
	}
	if (argc != 2)
	{
		fprintf(stderr, "usage: %s [--fuzz SECONDS SEED | --bench SECONDS] CORPUS\n", argv[0]);
		return 2;
	}
	read_corpus(argv[1]);
	for (int i = 0; i < ncases; i++)
	{
		int			before = failed;

		run_case(&cases[i]);
		failed = Min(failed, before + 1);
	}
	printf("decode: %d passed, %d failed\n", ncases - failed, failed);
	return failed > 0;
}
