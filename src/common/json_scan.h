/*
 * json_scan.h: one pass over a JSON text that keeps what somebody asked for.
 *
 * The caller says which paths it wants as a tree of GcPath; the scan walks the
 * text and the tree together and puts a GcJsonValue into a slot for each path that
 * it meets.  There is no tree of the document, so memory depends on the mapping
 * and not on the payload.
 *
 * The lexer is PostgreSQL's (json_lex); the grammar around it is ours, because
 * pg_parse_json recurses.  See decode.h for how it fails.
 */
#ifndef GC_JSON_SCAN_H
#define GC_JSON_SCAN_H

#include "common.h"

#include "common/jsonapi.h"
#include "lib/stringinfo.h"

typedef enum GcJsonType
{
	GC_JSON_ABSENT = 0,
	GC_JSON_NULL,
	GC_JSON_FALSE,
	GC_JSON_TRUE,
	GC_JSON_NUMBER,
	GC_JSON_STRING,
	GC_JSON_OBJECT,
	GC_JSON_ARRAY
} GcJsonType;

/*
 * A value in a text.  raw is its spelling there, NULL when it comes from a plain
 * text that is not JSON (a key, a header).  text is a string's content, else the spelling.
 * Both point into the caller's text or into the scanner's arena.
 */
typedef struct GcJsonValue
{
	GcJsonType	type;
	const char *raw;
	size_t		raw_len;
	const char *text;
	size_t		text_len;
} GcJsonValue;

/* A value as it was in the record before. */
typedef struct GcRepeat
{
	char	   *text;
	size_t		len;			/* 0 = there was none */
	size_t		room;
	int			depth;			/* at which it began */
	GcArena    *arena;
} GcRepeat;

/*
 * A wanted place in a document, and the wanted places below it.  Built with gc_path_member and gc_path_element, then
 * gc_path_finish on the root.
 */
typedef struct GcPath
{
	const char *name;			/* of the member that leads here; NULL for an array element */
	size_t		name_len;
	uint32		hash;
	int			element;		/* of the array, when name is NULL */
	int			slot;			/* where the value goes, -1 = only on the way */
	int			alias;			/* a second slot, for camelCase; -1 = none */
	bool		taken;			/* a column takes the whole value, so it is not "unmapped" */
	GcRepeat   *repeat;			/* records nearly always have the same object here: NULL = no */

	struct GcPath **child;
	int			nchildren;
	bool		has_elements;	/* some child is an array element */
	struct GcPath **table;		/* members by hash, open addressing */
	uint32		mask;
	struct GcPath *aliases;		/* root only: columns by name, for fields that have that name in camelCase */
} GcPath;

extern GcPath *gc_path_root(GcArena *arena);

/* The place below path, made when it is new.  name is copied. */
extern GcPath *gc_path_member(GcArena *arena, GcPath *path, const char *name, size_t len);
extern GcPath *gc_path_element(GcArena *arena, GcPath *path, int element);

/*
 * Here stands, in record after record, the same object, and nothing in it is wanted: the schema that Kafka Connect sends with
 * each of them. One whose bytes are those of the record before has been read already.
 */
extern void gc_path_repeats(GcArena *arena, GcPath *path);
extern void gc_path_finish(GcArena *arena, GcPath *root);

/* The place that a name, a name in camelCase, an index leads to; NULL = not wanted. */
extern GcPath *gc_path_find_member(const GcPath *path, const char *name, size_t len);
extern GcPath *gc_path_find_alias(const GcPath *root, const char *name, size_t len);
extern GcPath *gc_path_find_element(const GcPath *path, int element);

/* guestRef, GuestRef, guestREF to guest_ref.  False when it has no capitals or does not fit into NAMEDATALEN. */
extern bool gc_snake_case(const char *name, size_t len, char *snake, size_t *snake_len);

/* A member of the root object that no column takes: spelling of its name and its value. */
typedef struct GcJsonMember
{
	const char *name;
	size_t		name_len;
	const char *value;
	size_t		value_len;
} GcJsonMember;

typedef struct GcJsonFrame
{
	const char *start;			/* the bracket */
	GcPath	   *path;			/* wanted places inside, NULL = none */
	GcPath	   *next;			/* where the value being read belongs, NULL = nowhere */
	int			element;		/* arrays: its index */
	bool		is_object;
} GcJsonFrame;

typedef struct GcJsonScanner
{
	JsonLexContext *plain;		/* for texts without a backslash: strings are slices */
	JsonLexContext *escaped;	/* for the others */
	GcArena    *arena;			/* where contents of strings with escapes go */

	/* of the last scan */
	int			members;		/* of the root object */
	GcJsonMember *rest;			/* members that no column takes, in order */
	int			nrest;
	int			rest_size;

	GcJsonFrame frames[GC_MAX_DEPTH];
} GcJsonScanner;

extern void gc_json_scanner_init(GcJsonScanner *scanner, GcArena *arena);
extern void gc_json_scanner_free(GcJsonScanner *scanner);

/* Is it strict UTF-8 without NUL?  what begins the message: "payload", "record key". */
extern bool gc_json_check_text(const char *what, const char *text, size_t len, GcDecodeError *err);

/*
 * Checks the whole text, which must have passed gc_json_check_text, and fills
 * slots (cleared first).  root may be NULL.  rest: collect the members that no column takes.
 */
extern bool gc_json_scan(GcJsonScanner *scanner, const char *what, const char *json, size_t len,
						 GcPath *root, GcJsonValue *slots, int nslots, bool rest,
						 GcDecodeError *err);

/* The lexer for a text that has been scanned before, standing at its start. */
extern JsonLexContext *gc_json_aim(GcJsonScanner *scanner, const char *json, size_t len);

/* The content of the string token that the lexer stands on, in the text or the lexer: copy it to keep it. */
extern void gc_json_string(JsonLexContext *lex, const char **text, size_t *len);

/*
 * The members of an object or the elements of an array, of a text that has
 * been scanned before.  Anything else is one element.  The scanner is busy
 * until the end.  name: objects only.
 */
typedef struct GcJsonIter
{
	GcJsonScanner *scanner;
	JsonLexContext *lex;
	GcJsonType	type;
	bool		done;
} GcJsonIter;

extern void gc_json_iter_begin(GcJsonIter *iter, GcJsonScanner *scanner, const char *json, size_t len);
extern bool gc_json_iter_next(GcJsonIter *iter, GcJsonValue *name, GcJsonValue *value);

#endif							/* GC_JSON_SCAN_H */
