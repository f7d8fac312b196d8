/*
 * decode.h: one change record in, one text per column out.
 *
 * What it is for.  A changelog carries records as JSON.  This library turns the
 * raw bytes of one record (value, key, headers, time) into the texts of the
 * entity's columns, or into an error that says which field is wrong and why.
 * It is the only place where a payload is understood: apply() calls it inside
 * the server, the reader program calls it outside, from the same sources, so
 * that both always agree.
 *
 * How it fails.  Errors are values (GcDecodeError); nothing here calls
 * ereport, SPI, a type's input function or anything else of the server's, and
 * nothing depends on a session's settings.  The one exception is memory: a
 * failed palloc raises an ERROR inside the server and ends the program outside.
 *
 * Memory and threads.  A mapping owns everything: its compiled form, its lexers
 * and the buffer that results live in.  All of it stays in the memory context
 * that was current in gc_mapping_compile(), whatever context is current later.
 * A result is valid until the next gc_decode() with the same mapping.  One
 * mapping serves one thread.  Steady state allocates nothing.
 *
 * What is inside.  decode.c puts a record together, column_text.c makes texts
 * of values, mapping.c compiles mappings, json_scan.c runs PostgreSQL's lexer
 * without recursion, time_text.c reads times, common.c has memory and errors.
 *
 * How the server calls it (apply() in short; ncolumns columns in the order of
 * the shape, the kinds from each column's base type):
 *
 *		GcDecodeColumn columns[] = {
 *			{.name = "ref", .kind = GC_KIND_TEXT, .is_key = true},
 *			{.name = "total", .kind = GC_KIND_OTHER},
 *			{.name = "tags", .kind = GC_KIND_ARRAY, .element = GC_KIND_TEXT},
 *			{.name = "extra", .kind = GC_KIND_JSON, .is_unmapped = true},
 *			{.name = "modified_at", .kind = GC_KIND_TIMESTAMPTZ, .is_version = true}};
 *		GcMappingSpec spec = {.columns = columns, .ncolumns = 5, .mapping = mapping_json_or_NULL};
 *		GcDecodeError err;
 *		GcMapping  *map = gc_mapping_compile(&spec, &err);
 *		GcDecoded	row;
 *		GcElements *all;
 *		GcDecodeInput in = {.timestamp_us = now_in_unix_microseconds, .deleted = deleted_argument};
 *
 *		if (map == NULL)
 *			report(&err);				// see GC_DECODE_ERRCODE below
 *		all = gc_elements_begin(payload, payload_len, &err);	// one object or an array of them
 *		if (all == NULL)
 *			report(&err);
 *		while (gc_elements_next(all, &in.value, &in.value_len))
 *		{
 *			switch (gc_decode(map, &in, &row))
 *			{
 *				case GC_DECODE_UPSERT:		// every column: row.fields[i]
 *				case GC_DECODE_TOMBSTONE:	// key and version columns only, the rest is absent
 *					for (i = 0; i < 5; i++)
 *						if (row.fields[i].state == GC_FIELD_TEXT)
 *							values[i] = InputFunctionCall(&in_func[i], row.fields[i].text, ioparam[i], typmod[i]);
 *						else if (row.fields[i].state == GC_FIELD_NULL)
 *							nulls[i] = true;
 *						else
 *							...				// GC_FIELD_ABSENT: the shape's DEFAULT, NULL in a tombstone
 *					break;
 *				case GC_DECODE_FILTERED:	// not this changelog's record
 *				case GC_DECODE_IGNORED:		// means nothing: Debezium's tombstone after a delete
 *					break;
 *				case GC_DECODE_BAD:			// dead letter; apply() raises it
 *				case GC_DECODE_HALT:		// Debezium's truncate: stop the changelog
 *					report(&row.error);
 *			}
 *		}
 *
 *		ereport(ERROR,
 *				(errcode(GC_DECODE_ERRCODE(&err)),
 *				 errmsg_internal("%s", err.message),
 *				 err.detail[0] ? errdetail_internal("%s", err.detail) : 0,
 *				 err.hint[0] ? errhint("%s", err.hint) : 0));
 *
 * The message names the field, as the payload spells it, and the reason; only
 * the detail may quote the payload (at most GC_QUOTE_BYTES of it), so a caller
 * that must keep payloads out of a log leaves the detail out.
 *
 * The mapping, a JSON object {"column": source, ...}:
 *
 *		"$.a.b"  "$.\"odd name\"[0].c"	a field of the payload; array elements from 0
 *		"$"								the whole payload (for Debezium: the row)
 *		"$key"  "$key.a"				the record's key, or a field of it
 *		"$headers.x"					the last header of that name, as text
 *		"$timestamp"					the record's time
 *		{"path": "$.ts", "unit": "ms", "zone": "+02:00"}
 *										any of the above, with what a time needs to be understood
 *		null							nothing: the column keeps its DEFAULT
 *
 * A column that is not in the mapping takes the top-level field of its own
 * name, and where there is none the one whose camelCase name becomes the
 * column's name: guestRef, GuestRef and guestREF fill guest_ref.  The
 * pseudo-column "gc_deleted" takes a soft-delete flag (true, false, 0, 1, or
 * those as text; null is false); without a mapping a top-level field
 * "gc_deleted" or Debezium's "__deleted" is it.
 *
 * A field that is missing, and one whose path leads through something that is
 * not an object, is absent.  Of duplicate names the last wins, as a whole.  A
 * value {"schema": ..., "payload": {...}} with exactly these two members is
 * Kafka Connect's wrapper: the payload is taken, unless a column is fed by a
 * field of one of these names.
 *
 * What a column gets, by kind:
 *
 *		GC_KIND_TEXT	a string's content; numbers and booleans as spelled; JSON text of objects and arrays
 *		GC_KIND_OTHER	the same, judged by the type's own input function
 *		GC_KIND_JSON	the JSON text of the value as spelled: numbers keep every digit, strings their quotes
 *		GC_KIND_ARRAY	a JSON array as an array literal, elements by the column's element kind, nested arrays allowed
 *		GC_KIND_TIMESTAMPTZ	see below, written "2026-11-22 16:42:59.25+00", always UTC
 *		GC_KIND_TIMESTAMP	the same without "+00": UTC where the payload has a zone, is an epoch number or the
 *						mapping declares a zone; else the wall time as spelled
 *		GC_KIND_DATE	"YYYY-MM-DD"; a number only with a declared unit ("days" since 1970 too)
 *
 * Times.  A string is ISO 8601, YYYY-MM-DD, then T or one blank, then hh:mm with
 * optional :ss and fraction, then Z, +hh, +hhmm or +hh:mm; the zone may be left
 * out only where the mapping declares one.  Digits below microseconds are cut
 * off.  Years 0001 to 9999; no 24:00, no second 60, no February 30, no words.  A number, or a
 * string that is one, counts from 1970: in the declared unit, else in that of s,
 * ms, us that puts it between 1990 and 2200 (never two at once); nanoseconds
 * and anything else are an error.  A version must be in those years
 * even where its unit is declared, because a wrong unit is how it
 * leaves them.  Zones are "UTC", "Z" and fixed offsets; names such as
 * Europe/Berlin are refused, because the reader has no zone database to agree with the server's.
 *
 * Keys.  An upsert takes its key columns from the payload unless they are
 * mapped elsewhere.  A tombstone takes them from the payload if it has one, else
 * from the record's key: an object, by the column's payload path, its name or
 * its camelCase name; an array with one element per key column; anything else
 * for a single key column: a JSON scalar's content or plain text.  Connect's
 * wrapper is taken off first.
 *
 * Versions.  An upsert without one is an error.  A tombstone without one takes
 * the record's time.  Debezium's delete takes source.ts_us or ts_ms, but
 * never less than the version of the row that it deletes, so that a delete
 * always beats its row though one clock counts milliseconds.
 */
#ifndef GC_DECODE_H
#define GC_DECODE_H

/*
 * Limits.  Each is an error of the record, never a crash or a wait.
 */
#define GC_MAX_VALUE_BYTES		(16 * 1024 * 1024)	/* of a value; spec.max_value_bytes changes it */
#define GC_MAX_VALUE_BYTES_LIMIT (255 * 1024 * 1024)	/* but not beyond what jsonb could hold */
#define GC_MAX_KEY_BYTES		(64 * 1024) /* of a record's raw key */
#define GC_MAX_KEY_TEXT_BYTES	2048	/* of all key columns' texts together: they must fit into a btree entry */
#define GC_MAX_HEADERS			1000
#define GC_MAX_HEADER_BYTES		(1024 * 1024)	/* names and values of all headers together */
#define GC_MAX_DEPTH			128 /* of objects and arrays in each other */
#define GC_MAX_REPEAT			65536	/* bytes of a schema that is known again in the next record */
#define GC_MAX_NUMBER_DIGITS	1000	/* of a number, before and after the point */
#define GC_MAX_NUMBER_EXPONENT	1000	/* 1e1000 and 1e-1000 pass */
#define GC_MAX_MAPPING_BYTES	(1024 * 1024)
#define GC_MAX_PATH_STEPS		32
#define GC_QUOTE_BYTES			64	/* of a payload in an error's detail */

/* How a column's text is made from a JSON value; see above. */
typedef enum GcColumnKind
{
	GC_KIND_TEXT = 0,
	GC_KIND_OTHER,
	GC_KIND_JSON,
	GC_KIND_ARRAY,
	GC_KIND_TIMESTAMPTZ,
	GC_KIND_TIMESTAMP,
	GC_KIND_DATE
} GcColumnKind;

/* A column of the entity.  Names are copied by gc_mapping_compile(). */
typedef struct GcDecodeColumn
{
	const char *name;
	GcColumnKind kind;
	GcColumnKind element;		/* GC_KIND_ARRAY: the kind of its elements, not an array itself */
	bool		is_key;
	bool		is_version;		/* exactly one column; TIMESTAMPTZ or TIMESTAMP */
	bool		is_unmapped;	/* at most one, kind JSON: an object of the top-level fields that
								 * no column takes whole; absent when there are none */
} GcDecodeColumn;

typedef enum GcEnvelope
{
	GC_ENVELOPE_PLAIN = 0,		/* the value is the entity */
	GC_ENVELOPE_DEBEZIUM		/* the value is {op, before, after, source}, in a schema wrapper or not */
} GcEnvelope;

typedef struct GcMappingSpec
{
	const GcDecodeColumn *columns;
	int			ncolumns;
	const char *mapping;		/* JSON text, NUL-terminated, or NULL: defaults only */
	const char *filter;			/* {"$.type": "order", "$headers.kind": "x"}: all must equal; or NULL */
	GcEnvelope	envelope;
	size_t		max_value_bytes;	/* 0: GC_MAX_VALUE_BYTES */
} GcMappingSpec;

/* Why a record or mapping was refused.  Stable: dead letters are counted by it. */
typedef enum GcDecodeErrorKind
{
	GC_ERROR_NONE = 0,
	GC_ERROR_MAPPING,			/* gc_mapping_compile: mapping, filter or columns (22023) */
	GC_ERROR_ENCODING,			/* not strict UTF-8, NUL, \u0000, lone surrogate (22021) */
	GC_ERROR_SYNTAX,			/* not JSON, empty, truncated, BOM, trailing bytes (22P02) */
	GC_ERROR_LIMIT,				/* size, depth, headers, key length (54000) */
	GC_ERROR_NUMBER,			/* too many digits, exponent too large (22003) */
	GC_ERROR_TYPE,				/* a value of the wrong JSON type for its place (22023) */
	GC_ERROR_TIME,				/* not a time: 22007 by form, 22008 by range */
	GC_ERROR_NO_KEY,			/* a key column is missing or null (23502) */
	GC_ERROR_NO_VERSION,		/* the version is missing or null (23502) */
	GC_ERROR_ENVELOPE,			/* not a Debezium envelope, unknown op (22023) */
	GC_ERROR_UNAVAILABLE,		/* __debezium_unavailable_value (22000) */
	GC_ERROR_TRUNCATE			/* Debezium's op t, status GC_DECODE_HALT (0A000) */
} GcDecodeErrorKind;

typedef struct GcDecodeError
{
	GcDecodeErrorKind kind;
	char		sqlstate[6];
	char		message[256];	/* primary: lower case, no period, no payload but names of fields */
	char		detail[256];	/* facts, may quote the payload; "" = none */
	char		hint[256];		/* what to do; "" = none */
} GcDecodeError;

/* For errcode() inside the server. */
#define GC_DECODE_ERRCODE(err) \
	MAKE_SQLSTATE((err)->sqlstate[0], (err)->sqlstate[1], (err)->sqlstate[2], \
				  (err)->sqlstate[3], (err)->sqlstate[4])

/* What a record brings.  All bytes are the caller's and are only read. */
typedef struct GcHeader
{
	const char *name;			/* NUL-terminated */
	const char *value;			/* NULL = null */
	size_t		value_len;
} GcHeader;

#define GC_NO_TIMESTAMP PG_INT64_MIN

typedef struct GcDecodeInput
{
	const char *value;			/* need not be NUL-terminated; NULL = Kafka's tombstone */
	size_t		value_len;
	const char *key;			/* NULL = none */
	size_t		key_len;
	const GcHeader *headers;
	int			nheaders;
	int64		timestamp_us;	/* record time, microseconds since 1970 UTC, or GC_NO_TIMESTAMP */
	bool		deleted;		/* the caller says that this is a delete */
} GcDecodeInput;

typedef enum GcFieldState
{
	GC_FIELD_ABSENT = 0,		/* not in the record: DEFAULT applies */
	GC_FIELD_NULL,				/* JSON null */
	GC_FIELD_TEXT
} GcFieldState;

typedef struct GcField
{
	GcFieldState state;
	char	   *text;			/* GC_FIELD_TEXT: NUL-terminated, valid UTF-8, no NUL inside; the caller may scribble on it */
	size_t		len;
} GcField;

typedef enum GcDecodeStatus
{
	GC_DECODE_UPSERT = 0,
	GC_DECODE_TOMBSTONE,		/* fields: key and version, all others absent */
	GC_DECODE_FILTERED,			/* the filter says: not for this entity */
	GC_DECODE_IGNORED,			/* nothing to do, by design */
	GC_DECODE_BAD,				/* error is set: dead letter */
	GC_DECODE_HALT				/* error is set: stop the changelog */
} GcDecodeStatus;

typedef struct GcDecoded
{
	GcDecodeStatus status;
	GcField    *fields;			/* ncolumns, in the order of spec.columns */
	int64		version_us;		/* upsert, tombstone: the version, microseconds since 1970 UTC */
	GcDecodeError error;		/* set with GC_DECODE_BAD and GC_DECODE_HALT only */
} GcDecoded;

typedef struct GcMapping GcMapping;
typedef struct GcElements GcElements;

/*
 * Compiles a mapping, filter and columns.  NULL and *err when something is
 * wrong with them: unknown column (the hint names the nearest), bad path, unit
 * or zone, no key or version column.  The spec is not needed afterwards.
 */
extern GcMapping *gc_mapping_compile(const GcMappingSpec *spec, GcDecodeError *err);

/* Frees it and all results; inside the server deleting its context does too. */
extern void gc_mapping_free(GcMapping *mapping);

/*
 * Decodes one record.  Returns out->status.  out->fields stays the mapping's
 * and holds until the next call; out->error is the caller's copy.
 */
extern GcDecodeStatus gc_decode(GcMapping *mapping, const GcDecodeInput *in, GcDecoded *out);

/*
 * The elements of a JSON array, or the one value itself when it is not an
 * array, as slices of json (which must stay).  begin checks the whole text first: NULL
 * and *err when it is not JSON.  After begin has succeeded, next never fails;
 * it returns false at the end.  Slices go to gc_decode() as values.
 */
extern GcElements *gc_elements_begin(const char *json, size_t len, GcDecodeError *err);
extern bool gc_elements_next(GcElements *elements, const char **value, size_t *value_len);
extern void gc_elements_free(GcElements *elements);

#endif							/* GC_DECODE_H */
