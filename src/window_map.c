/*
 * window_map.c: a hash map from the keys of a window to the newest position of
 * each, made for one statement by window.c.
 *
 * Most lookups miss: a scan of history asks for every row whether the window
 * has something newer, and nearly always it has not. So a miss should touch
 * little memory: in front is a bit filter of 11 bits a key or more, small enough for a
 * processor's second cache when the rest no longer is. A hit should touch one
 * place: a cell is as large as a cache line and holds position, hash and a short key.
 * Longer keys, and those whose equality is not that of bytes, lie in a heap of their own.
 *
 * Open addressing, linear probing, at most 70 % full; nothing is ever removed.
 * There are no pointers in it, so that a map can be copied into shared memory whole,
 * for the workers of a parallel scan.
 */
#include "postgres.h"

#include <sys/mman.h>

#include "lib/stringinfo.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "compat.h"
#include "read.h"

#define FEWEST_CELLS	1024
#define SHORT_KEY		16
#define HUGE_PAGE		(2 * 1024 * 1024)

typedef struct Cell
{
	GcPosition	position;
	uint32		hash;
	uint32		length;			/* of the key in bytes, plus one; 0 = the cell is free */
	union
	{
		unsigned char bytes[SHORT_KEY];
		uint64		place;		/* in the heap */
	}			key;
} Cell;

StaticAssertDecl(sizeof(Cell) == 64, "a cell is a cache line");

/* What a copy of a map in shared memory begins with. */
typedef struct SharedMap
{
	uint64		seed;
	uint32		ncells;
	uint32		nwords;
	uint32		used;
	Size		heap_size;
} SharedMap;

/* A short key on its way into the map; its cell is being fetched from memory. */
typedef struct Pending
{
	GcPosition	position;
	uint32		hash;
	uint32		length;
	unsigned char bytes[SHORT_KEY];
} Pending;

#define PENDING 16

struct GcWindowMap
{
	Pending		pending[PENDING];
	uint32		added;			/* in turn to pending[added % PENDING] */
	uint32		inserted;
	MemoryContext context;
	GcKey	   *key;
	bool		bytewise;		/* keys are compared by their bytes */
	Size		limit;			/* bytes; 0 = none */
	Cell	   *cells;
	uint32		ncells;
	uint32		used;
	uint64	   *filter;
	uint32		nwords;			/* of the filter; a power of two */
	char	   *heap;
	Size		heap_size;
	Size		heap_room;
	StringInfoData packed;		/* the key being looked for, where it has several columns */
};

/* Bytes of a key. */
typedef struct Bytes
{
	const unsigned char *bytes;
	uint32		length;
	Datum		word;			/* holds them, where the value is passed in a register */
} Bytes;

/* The bytes of a value of a bytewise column; by-value types are in *word. */
static inline const unsigned char *
value_bytes(const GcKeyColumn *column, Datum value, Datum *word, int *length)
{
	if (column->typbyval)
	{
		*word = value;
		*length = sizeof(Datum);
		return (const unsigned char *) word;
	}
	if (column->typlen == -1)
	{
		struct varlena *packed = (struct varlena *) DatumGetPointer(value);

		if (VARATT_IS_EXTERNAL(packed) || VARATT_IS_COMPRESSED(packed))
			packed = PG_DETOAST_DATUM_PACKED(value);
		*length = VARSIZE_ANY_EXHDR(packed);
		return (const unsigned char *) VARDATA_ANY(packed);
	}
	*length = column->typlen == -2 ? strlen(DatumGetCString(value)) : column->typlen;
	return (const unsigned char *) DatumGetPointer(value);
}

/*
 * A hash for this process only, of short strings: eight bytes a step, each
 * multiplied and folded, the last step overlapping the one before (as in FxHash
 * and wyhash). Half the time of hash_bytes() for keys of eight bytes.
 */
static inline uint64
hash_step(uint64 hash, uint64 word)
{
	hash = (hash ^ word) * UINT64CONST(0x9E3779B97F4A7C15);
	return hash ^ (hash >> 32);
}

static inline uint64
load_word(const unsigned char *bytes, int length)
{
	uint64		word = 0;
	uint32		half;

	if (length >= 8)
		memcpy(&word, bytes, 8);
	else if (length >= 4)
	{
		memcpy(&half, bytes, 4);
		word = half;
		memcpy(&half, bytes + length - 4, 4);
		word = word << 32 | half;
	}
	else
		for (int i = 0; i < length; i++)
			word = word << 8 | bytes[i];
	return word;
}

static inline uint64
hash_short(uint64 hash, const unsigned char *bytes, int length)
{
	hash ^= length;
	for (int i = 8; i < length; i += 8)
		hash = hash_step(hash, load_word(bytes + i - 8, 8));
	return hash_step(hash, length > 8 ? load_word(bytes + length - 8, 8) : load_word(bytes, length));
}

uint32
gc_key_hash(GcKey *key, const Datum *values)
{
	uint64		hash = key->seed;

	for (int i = 0; i < key->ncolumns; i++)
	{
		GcKeyColumn *column = &key->columns[i];

		if (column->bytewise)
		{
			Datum		word;
			int			length;
			const unsigned char *bytes = value_bytes(column, values[i], &word, &length);

			hash = hash_short(hash, bytes, length);
		}
		else
			hash = hash_step(hash, DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i])));
	}
	return (uint32) (hash >> 32);
}

/* Are two values equal, by the type's own equality and the column's collation? */
static bool
column_equal(GcKeyColumn *column, Datum a, Datum b)
{
	Datum		a_word;
	Datum		b_word;
	int			a_length;
	int			b_length;
	const unsigned char *a_bytes;
	const unsigned char *b_bytes;

	if (!column->bytewise)
		return DatumGetBool(FunctionCall2Coll(&column->equal, column->collation, a, b));
	a_bytes = value_bytes(column, a, &a_word, &a_length);
	b_bytes = value_bytes(column, b, &b_word, &b_length);
	return a_length == b_length && memcmp(a_bytes, b_bytes, a_length) == 0;
}

/*
 * The map
 */

/* Three bits of a word of the filter; the word is chosen by other bits of the mix. */
static inline uint64
filter_bits(uint64 mixed)
{
	return (UINT64CONST(1) << (mixed >> 58)) | (UINT64CONST(1) << ((mixed >> 52) & 63)) |
		(UINT64CONST(1) << ((mixed >> 46) & 63));
}

static inline uint64
mix(uint32 hash)
{
	return hash * UINT64CONST(0x9E3779B97F4A7C15);
}

static inline uint64 *
filter_word(GcWindowMap *map, uint64 mixed)
{
	return &map->filter[(mixed >> 14) & (map->nwords - 1)];
}

/* Zeroes; in pages as large as the system has, since a map is read at random. */
static void *
allocate(MemoryContext context, Size size)
{
	char	   *memory = MemoryContextAllocExtended(context, size, MCXT_ALLOC_HUGE);

#ifdef MADV_HUGEPAGE
	char	   *from = (char *) TYPEALIGN(HUGE_PAGE, memory);
	char	   *to = (char *) TYPEALIGN_DOWN(HUGE_PAGE, memory + size);

	if (from < to)
		(void) madvise(from, to - from, MADV_HUGEPAGE); /* only a wish */
#endif
	return memset(memory, 0, size);
}

static uint32
words_for(uint32 ncells)
{
	return pg_nextpower2_32(ncells / 8);
}

static void
set_cells(GcWindowMap *map, uint32 ncells)
{
	map->ncells = ncells;
	map->nwords = words_for(ncells);
	map->cells = allocate(map->context, ncells * sizeof(Cell));
	map->filter = allocate(map->context, map->nwords * sizeof(uint64));
}

/* What a map takes with so many cells. */
static Size
size_with(GcWindowMap *map, uint32 ncells)
{
	return ncells * sizeof(Cell) + words_for(ncells) * sizeof(uint64) + map->heap_room;
}

/*
 * `limit` in bytes bounds what gc_window_map_add may use; 0 = no limit. Room is made
 * for about `rows` keys, so that it need not grow while it is filled.
 */
GcWindowMap *
gc_window_map_create(MemoryContext context, GcKey *key, Size limit, double rows)
{
	GcWindowMap *map = MemoryContextAllocZero(context, sizeof(GcWindowMap));
	double		ncells = rows / 0.65;

	map->context = context;
	map->key = key;
	map->limit = limit;
	map->bytewise = true;
	for (int i = 0; i < key->ncolumns; i++)
		map->bytewise &= key->columns[i].bytewise;
	if (limit > 0)
		ncells = Min(ncells, limit / 2 / sizeof(Cell));
	set_cells(map, Min(Max(ncells, FEWEST_CELLS), UINT32_MAX / 4));
	return map;
}

/* The bytes of a bytewise key. */
static void
pack_key(GcWindowMap *map, const Datum *values, Bytes *packed)
{
	GcKey	   *key = map->key;
	int			length;

	if (key->ncolumns == 1)
	{
		packed->bytes = value_bytes(&key->columns[0], values[0], &packed->word, &length);
		packed->length = length;
		return;
	}
	if (map->packed.data == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(map->context);

		initStringInfo(&map->packed);
		MemoryContextSwitchTo(caller);
	}
	resetStringInfo(&map->packed);
	for (int i = 0; i < key->ncolumns; i++)
	{
		const unsigned char *bytes = value_bytes(&key->columns[i], values[i], &packed->word, &length);

		appendBinaryStringInfo(&map->packed, (char *) &length, sizeof(length));
		appendBinaryStringInfo(&map->packed, (const char *) bytes, length);
	}
	packed->bytes = (unsigned char *) map->packed.data;
	packed->length = map->packed.len;
}

/* Room in the heap; its place. */
static Size
reserve(GcWindowMap *map, Size size)
{
	Size		place = map->heap_size;

	map->heap_size += MAXALIGN(size);
	if (map->heap_size > map->heap_room)
	{
		map->heap_room = Max(map->heap_size * 2, 8192);
		map->heap = map->heap == NULL ?
			MemoryContextAllocHuge(map->context, map->heap_room) :
			repalloc_huge(map->heap, map->heap_room);
	}
	return place;
}

/* Bytes that a value takes in the heap. */
static Size
value_size(const GcKeyColumn *column, Datum value)
{
	if (column->typbyval)
		return sizeof(Datum);
	if (column->typlen == -1)
		return VARSIZE_ANY(DatumGetPointer(value));
	return column->typlen == -2 ? strlen(DatumGetCString(value)) + 1 : column->typlen;
}

/* Copies the values of a key that is not bytewise into the heap, each aligned, in turn. */
static Size
copy_values(GcWindowMap *map, const Datum *values)
{
	GcKey	   *key = map->key;
	Datum		flat[INDEX_MAX_KEYS];
	Size		size = 0;
	Size		place;
	char	   *to;

	for (int i = 0; i < key->ncolumns; i++)
	{
		flat[i] = key->columns[i].typlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[i])) : values[i];
		size += MAXALIGN(value_size(&key->columns[i], flat[i]));
	}
	place = reserve(map, size);
	to = map->heap + place;
	for (int i = 0; i < key->ncolumns; i++)
	{
		Size		length = value_size(&key->columns[i], flat[i]);

		memcpy(to, key->columns[i].typbyval ? (char *) &flat[i] : DatumGetPointer(flat[i]), length);
		to += MAXALIGN(length);
	}
	return place;
}

/* Are the values at a place of the heap equal to these? */
static bool
values_equal(GcWindowMap *map, Size place, const Datum *values)
{
	GcKey	   *key = map->key;
	char	   *at = map->heap + place;

	for (int i = 0; i < key->ncolumns; i++)
	{
		GcKeyColumn *column = &key->columns[i];
		Datum		value = column->typbyval ? *(Datum *) at : PointerGetDatum(at);

		if (!column_equal(column, value, values[i]))
			return false;
		at += MAXALIGN(value_size(column, value));
	}
	return true;
}

static inline bool
cell_has(GcWindowMap *map, const Cell *cell, const Datum *values, const Bytes *packed)
{
	if (!map->bytewise)
		return values_equal(map, cell->key.place, values);
	return cell->length == packed->length + 1 &&
		memcmp(packed->length <= SHORT_KEY ? (const char *) cell->key.bytes : map->heap + cell->key.place,
			   packed->bytes, packed->length) == 0;
}

static inline uint32
first_cell(const GcWindowMap *map, uint32 hash)
{
	return (uint64) hash * map->ncells >> 32;
}

/* The cell that holds this key, or the free one where it would go. */
static Cell *
find_cell(GcWindowMap *map, uint32 hash, const Datum *values, const Bytes *packed)
{
	uint32		i = first_cell(map, hash);

	for (;;)
	{
		Cell	   *cell = &map->cells[i];

		if (cell->length == 0 || (cell->hash == hash && cell_has(map, cell, values, packed)))
			return cell;
		if (++i == map->ncells)
			i = 0;
	}
}

/* Doubles the cells; false when that would pass the limit. */
static bool
grow(GcWindowMap *map)
{
	Cell	   *old = map->cells;
	uint32		nold = map->ncells;

	if (nold > UINT32_MAX / 2 ||
		(map->limit > 0 && size_with(map, nold * 2) > map->limit))
		return false;
	pfree(map->filter);
	set_cells(map, nold * 2);
	for (uint32 i = 0; i < nold; i++)
	{
		uint32		j;

		if (old[i].length == 0)
			continue;
		j = first_cell(map, old[i].hash);
		while (map->cells[j].length != 0)
			j = j + 1 == map->ncells ? 0 : j + 1;
		map->cells[j] = old[i];
		*filter_word(map, mix(old[i].hash)) |= filter_bits(mix(old[i].hash));
	}
	pfree(old);
	return true;
}

/* gc_window_map_add for a key whose cell has been waited for, or need not be. */
static bool
insert(GcWindowMap *map, uint32 hash, const Datum *values, const Bytes *packed,
	   const GcPosition *position)
{
	Cell	   *cell = find_cell(map, hash, values, packed);

	if (cell->length != 0)
	{
		if (gc_position_compare(&cell->position, position) < 0)
			cell->position = *position;
		return true;
	}
	if (map->used >= map->ncells * 0.7)
	{
		if (!grow(map))
			return false;
		cell = find_cell(map, hash, values, packed);
	}
	if (!map->bytewise)
		cell->key.place = copy_values(map, values);
	else if (packed->length <= SHORT_KEY)
		memcpy(cell->key.bytes, packed->bytes, packed->length);
	else
	{
		cell->key.place = reserve(map, packed->length);
		memcpy(map->heap + cell->key.place, packed->bytes, packed->length);
	}
	cell->length = packed->length + 1;
	cell->hash = hash;
	cell->position = *position;
	map->used++;
	*filter_word(map, mix(hash)) |= filter_bits(mix(hash));
	return map->limit == 0 || size_with(map, map->ncells) <= map->limit;
}

static bool
insert_pending(GcWindowMap *map)
{
	Pending    *pending = &map->pending[map->inserted++ % PENDING];
	Bytes		packed = {.bytes = pending->bytes, .length = pending->length};

	return insert(map, pending->hash, NULL, &packed, &pending->position);
}

/*
 * Records that a version of this key is at `position`; the newest stays.
 * False when that would take more than the limit: then the map is of no use.
 * After the last one gc_window_map_finish is called.
 */
bool
gc_window_map_add(GcWindowMap *map, const Datum *values, const GcPosition *position)
{
	uint32		hash = gc_key_hash(map->key, values);
	Bytes		packed = {0};
	Pending    *pending;

	if (map->bytewise)
		pack_key(map, values, &packed);
	if (!map->bytewise || packed.length > SHORT_KEY)
		return insert(map, hash, values, &packed, position);

	/* In a few steps from here on the cell and the filter's word will be there. */
	__builtin_prefetch(&map->cells[first_cell(map, hash)], 1);
	__builtin_prefetch(filter_word(map, mix(hash)), 1);
	pending = &map->pending[map->added++ % PENDING];
	pending->position = *position;
	pending->hash = hash;
	pending->length = packed.length;
	memcpy(pending->bytes, packed.bytes, packed.length);
	return map->added - map->inserted < PENDING || insert_pending(map);
}

bool
gc_window_map_finish(GcWindowMap *map)
{
	while (map->inserted != map->added)
		if (!insert_pending(map))
			return false;
	return true;
}

/* The newest position of this key, or NULL when the map has none. */
GcPosition *
gc_window_map_find(GcWindowMap *map, const Datum *values)
{
	uint32		hash = gc_key_hash(map->key, values);
	uint64		bits = filter_bits(mix(hash));
	Bytes		packed = {0};
	Cell	   *cell;

	if ((*filter_word(map, mix(hash)) & bits) != bits)
		return NULL;
	if (map->bytewise)
		pack_key(map, values, &packed);
	cell = find_cell(map, hash, values, &packed);
	return cell->length == 0 ? NULL : &cell->position;
}

/* Shows every key's newest position to a function. */
void
gc_window_map_visit(GcWindowMap *map, void (*visit) (void *context, const GcPosition *position),
					void *context)
{
	for (uint32 i = 0; i < map->ncells; i++)
		if (map->cells[i].length != 0)
			visit(context, &map->cells[i].position);
}

/*
 * Shared memory
 */

Size
gc_window_map_shared_size(const GcWindowMap *map)
{
	return MAXALIGN(sizeof(SharedMap)) + sizeof(Cell) * (Size) map->ncells +
		sizeof(uint64) * map->nwords + map->heap_size;
}

/* Copies a map to memory that other processes of the query see too. */
void
gc_window_map_copy(const GcWindowMap *map, char *to)
{
	SharedMap  *shared = (SharedMap *) to;

	shared->seed = map->key->seed;
	shared->ncells = map->ncells;
	shared->nwords = map->nwords;
	shared->used = map->used;
	shared->heap_size = map->heap_size;
	to += MAXALIGN(sizeof(SharedMap));
	memcpy(to, map->cells, sizeof(Cell) * (Size) map->ncells);
	to += sizeof(Cell) * (Size) map->ncells;
	memcpy(to, map->filter, sizeof(uint64) * map->nwords);
	to += sizeof(uint64) * map->nwords;
	if (map->heap_size > 0)
		memcpy(to, map->heap, map->heap_size);
}

/* A map that is such a copy. Nothing is added to it; what is noted in a position, all see. */
GcWindowMap *
gc_window_map_attach(MemoryContext context, GcKey *key, char *from)
{
	GcWindowMap *map = gc_window_map_create(context, key, 0, 0);
	SharedMap  *shared = (SharedMap *) from;

	pfree(map->cells);
	pfree(map->filter);
	key->seed = shared->seed;
	map->ncells = shared->ncells;
	map->nwords = shared->nwords;
	map->used = shared->used;
	map->heap_size = map->heap_room = shared->heap_size;
	from += MAXALIGN(sizeof(SharedMap));
	map->cells = (Cell *) from;
	from += sizeof(Cell) * (Size) map->ncells;
	map->filter = (uint64 *) from;
	map->heap = from + sizeof(uint64) * map->nwords;
	return map;
}
