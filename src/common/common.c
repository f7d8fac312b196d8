/*
 * common.c: the arena and the errors of src/common.
 *
 * Nothing here fails, but for memory: see decode.h.
 */
#include "common.h"

#include "mb/pg_wchar.h"
#ifndef FRONTEND
#include "utils/memutils.h"
#endif

/* Small records fit into the first chunk for ever; what one huge record needed is given back. */
#define CHUNK_FIRST		(32 * 1024)
#define CHUNK_KEEP		(1024 * 1024)

typedef struct GcArenaChunk
{
	struct GcArenaChunk *older;
	size_t		size;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} GcArenaChunk;

void
gc_arena_init(GcArena *arena)
{
	memset(arena, 0, sizeof(*arena));
#ifndef FRONTEND
	arena->context = CurrentMemoryContext;
#endif
}

static GcArenaChunk *
new_chunk(GcArena *arena, size_t size)
{
	GcArenaChunk *chunk;
	size_t		bytes = offsetof(GcArenaChunk, data) + size;

#ifdef FRONTEND
	chunk = palloc(bytes);
#else
	chunk = MemoryContextAllocHuge((MemoryContext) arena->context, bytes);
#endif
	chunk->size = size;
	return chunk;
}

/* Returns size bytes, aligned for anything, not cleared. */
void *
gc_arena_alloc(GcArena *arena, size_t size)
{
	void	   *piece;

	size = MAXALIGN(size);
	if (arena->chunk == NULL || arena->chunk->size - arena->used < size)
	{
		size_t		want = arena->chunk ? arena->chunk->size * 2 : CHUNK_FIRST;
		GcArenaChunk *chunk = new_chunk(arena, Max(Min(want, CHUNK_KEEP), size));

		chunk->older = arena->chunk;
		arena->chunk = chunk;
		arena->used = 0;
	}
	piece = arena->chunk->data + arena->used;
	arena->used += size;
	return piece;
}

/* Returns a NUL-terminated copy. */
char *
gc_arena_text(GcArena *arena, const char *text, size_t len)
{
	char	   *copy = gc_arena_alloc(arena, len + 1);

	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

/* Takes everything back; keeps the newest chunk, which is the largest but for odd records. */
void
gc_arena_reset(GcArena *arena)
{
	GcArenaChunk *chunk = arena->chunk;

	arena->used = 0;
	if (chunk == NULL)
		return;
	while (chunk->older)
	{
		GcArenaChunk *older = chunk->older;

		chunk->older = older->older;
		pfree(older);
	}
	if (chunk->size > CHUNK_KEEP)
	{
		pfree(chunk);
		arena->chunk = NULL;
	}
}

void
gc_arena_free(GcArena *arena)
{
	while (arena->chunk)
	{
		GcArenaChunk *older = arena->chunk->older;

		pfree(arena->chunk);
		arena->chunk = older;
	}
	arena->used = 0;
}

size_t
gc_utf8_clip(const char *text, size_t len, size_t max)
{
	if (len <= max)
		return len;
	while (max > 0 && ((unsigned char) text[max] & 0xC0) == 0x80)
		max--;
	return max;
}

/* Like vsnprintf, but never cuts inside a character. */
static void put(char *buf, size_t size, const char *format, va_list args) pg_attribute_printf(3, 0);

static void
put(char *buf, size_t size, const char *format, va_list args)
{
	int			len = vsnprintf(buf, size, format, args);

	/* A text that was cut may end inside a character: find where that one starts. */
	if (len >= (int) size)
	{
		size_t		end = size - 1;
		size_t		start = end;

		while (start > 0 && ((unsigned char) buf[start - 1] & 0xC0) == 0x80)
			start--;
		if (start > 0 && (unsigned char) buf[start - 1] >= 0xC0 &&
			start - 1 + pg_utf_mblen((unsigned char *) buf + start - 1) > end)
			end = start - 1;
		buf[end] = '\0';
	}
}

bool
gc_fail(GcDecodeError *err, GcDecodeErrorKind kind, const char *sqlstate, const char *message,...)
{
	va_list		args;

	err->kind = kind;
	strlcpy(err->sqlstate, sqlstate, sizeof(err->sqlstate));
	err->detail[0] = err->hint[0] = '\0';
	va_start(args, message);
	put(err->message, sizeof(err->message), message, args);
	va_end(args);
	return false;
}

void
gc_detail(GcDecodeError *err, const char *detail,...)
{
	va_list		args;

	va_start(args, detail);
	put(err->detail, sizeof(err->detail), detail, args);
	va_end(args);
}

void
gc_hint(GcDecodeError *err, const char *hint,...)
{
	va_list		args;

	va_start(args, hint);
	put(err->hint, sizeof(err->hint), hint, args);
	va_end(args);
}

const char *
gc_quote(char *buf, const char *text, size_t len)
{
	size_t		shown = gc_utf8_clip(text, len, GC_QUOTE_BYTES);
	size_t		i = 0;

	while (i < shown)
	{
		int			valid = pg_encoding_verifymbstr(PG_UTF8, text + i, (int) (shown - i));

		for (int n = 0; n < valid; n++, i++)
			buf[i] = ((unsigned char) text[i] < 0x20 || text[i] == 0x7f) ? '?' : text[i];
		if (i < shown)
			buf[i++] = '?';		/* a byte that starts no character */
	}
	strcpy(buf + i, shown < len ? "..." : "");
	return buf;
}
