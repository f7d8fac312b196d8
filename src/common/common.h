/*
 * common.h: what the files of src/common share, first include of each: the
 * right one of PostgreSQL's two base headers, an arena, and errors as values.
 *
 * The same sources are built into the server (postgres.h) and outside of it
 * (postgres_fe.h, with -DFRONTEND); this header is where that is decided.
 */
#ifndef GC_COMMON_H
#define GC_COMMON_H

#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "decode.h"

/*
 * Memory that is handed out piece by piece and taken back all at once.
 * Pieces never move.  Chunks come from the context that was current when the
 * arena was made, whoever asks later.
 */
typedef struct GcArena
{
	void	   *context;		/* MemoryContext inside the server, unused outside */
	struct GcArenaChunk *chunk; /* the one being filled, older ones behind it */
	size_t		used;			/* of chunk */
} GcArena;

extern void gc_arena_init(GcArena *arena);
extern void *gc_arena_alloc(GcArena *arena, size_t size);
extern char *gc_arena_text(GcArena *arena, const char *text, size_t len);
extern void gc_arena_reset(GcArena *arena);
extern void gc_arena_free(GcArena *arena);

/*
 * Errors.  gc_fail sets kind, SQLSTATE and message, clears detail and hint, and
 * returns false, so that "return gc_fail(...)" reads well.  Texts that do not fit are
 * cut between characters.
 */
extern bool gc_fail(GcDecodeError *err, GcDecodeErrorKind kind, const char *sqlstate,
					const char *message,...) pg_attribute_printf(4, 5);
extern void gc_detail(GcDecodeError *err, const char *detail,...) pg_attribute_printf(2, 3);
extern void gc_hint(GcDecodeError *err, const char *hint,...) pg_attribute_printf(2, 3);

/*
 * Makes a piece of a payload fit to be shown: at most GC_QUOTE_BYTES of it, valid UTF-8, control
 * characters as "?", "..." where it was cut.  buf holds GC_QUOTE_SIZE bytes.
 */
#define GC_QUOTE_SIZE (GC_QUOTE_BYTES + 4)
extern const char *gc_quote(char *buf, const char *text, size_t len);

/* How many of len bytes can be kept when at most max are wanted, between characters. */
extern size_t gc_utf8_clip(const char *text, size_t len, size_t max);

#endif							/* GC_COMMON_H */
