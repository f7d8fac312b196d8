/*
 * window_map.c: a hash map from the keys of a window to the newest position of
 * each, made for one statement by read.c.
 *
 * Most lookups miss: a scan of history asks for every row whether the window
 * has something newer, and nearly always it has not. So a miss should touch
 * little memory. In front is a bit filter of 8 bits a key or more, small enough for a
 * processor's second cache when the slots no longer are; behind it slots of
 * hash and number, half full; then fixed-size entries. Keys are compared exactly
 * on a hit, byte by byte where the type's equality means that, else by it.
 *
 * Open addressing, linear probing; nothing is ever removed but by the context.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "compat.h"
#include "read.h"

#define INITIAL_SLOTS	1024
#define ENTRIES_A_CHUNK 1024

typedef struct Slot
{
	uint32		hash;
	uint32		entry;			/* number + 1; 0 = free */
} Slot;

/* A key and its newest position; the key's datums follow the struct. */
typedef struct Entry
{
	GcPosition	position;
	Datum		key[FLEXIBLE_ARRAY_MEMBER];
} Entry;

struct GcWindowMap
{
	MemoryContext context;
	GcKey	   *key;
	Size		limit;			/* bytes; 0 = none */
	uint64	   *filter;			/* a word for every 16 slots */
	Slot	   *slots;
	uint32		mask;			/* number of slots - 1 */
	uint32		used;
	Size		entry_size;
	char	  **chunks;
	uint32		nchunks;
};

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
		struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);

		*length = VARSIZE_ANY_EXHDR(packed);
		return (const unsigned char *) VARDATA_ANY(packed);
	}
	*length = column->typlen == -2 ? strlen(DatumGetCString(value)) : column->typlen;
	return (const unsigned char *) DatumGetPointer(value);
}

uint32
gc_key_hash(GcKey *key, const Datum *values)
{
	uint32		hash = 0;

	for (int i = 0; i < key->ncolumns; i++)
	{
		GcKeyColumn *column = &key->columns[i];
		uint32		part;

		if (column->bytewise)
		{
			Datum		word;
			int			length;
			const unsigned char *bytes = value_bytes(column, values[i], &word, &length);

			part = hash_bytes(bytes, length);
		}
		else
			part = DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i]));
		hash = i == 0 ? part : hash_combine(hash, part);
	}
	return hash;
}

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

/* Are two keys equal, by the types' own equality and the columns' collations? */
bool
gc_key_equal(GcKey *key, const Datum *a, const Datum *b)
{
	for (int i = 0; i < key->ncolumns; i++)
		if (!column_equal(&key->columns[i], a[i], b[i]))
			return false;
	return true;
}

/* Two bits of a word of the filter; the word is chosen by other bits of the mix. */
static inline uint64
filter_bits(uint64 mixed)
{
	return (UINT64CONST(1) << (mixed >> 58)) | (UINT64CONST(1) << ((mixed >> 52) & 63));
}

static inline uint64
mix(uint32 hash)
{
	return hash * UINT64CONST(0x9E3779B97F4A7C15);
}

static inline uint64 *
filter_word(GcWindowMap *map, uint64 mixed)
{
	return &map->filter[(mixed >> 20) & (map->mask >> 4)];
}

static Entry *
entry_at(GcWindowMap *map, uint32 number)
{
	return (Entry *) (map->chunks[number / ENTRIES_A_CHUNK] +
					  (number % ENTRIES_A_CHUNK) * map->entry_size);
}

/* `limit` in bytes bounds what gc_window_map_add may use; 0 = no limit. */
GcWindowMap *
gc_window_map_create(MemoryContext context, GcKey *key, Size limit)
{
	GcWindowMap *map = MemoryContextAllocZero(context, sizeof(GcWindowMap));

	map->context = context;
	map->key = key;
	map->limit = limit;
	map->slots = MemoryContextAllocZero(context, INITIAL_SLOTS * sizeof(Slot));
	map->mask = INITIAL_SLOTS - 1;
	map->filter = MemoryContextAllocZero(context, INITIAL_SLOTS / 16 * sizeof(uint64));
	map->entry_size = MAXALIGN(offsetof(Entry, key) + sizeof(Datum) * key->ncolumns);
	map->chunks = MemoryContextAlloc(context, sizeof(char *));
	return map;
}

/* The slot that holds this key, or the free one where it would go. */
static Slot *
find_slot(GcWindowMap *map, uint32 hash, const Datum *values)
{
	uint32		i = hash & map->mask;

	for (;; i = (i + 1) & map->mask)
	{
		Slot	   *slot = &map->slots[i];

		if (slot->entry == 0)
			return slot;
		if (slot->hash == hash &&
			gc_key_equal(map->key, entry_at(map, slot->entry - 1)->key, values))
			return slot;
	}
}

/* Doubles the slots and the filter. */
static void
grow(GcWindowMap *map)
{
	Slot	   *old = map->slots;
	uint32		old_mask = map->mask;

	map->mask = old_mask * 2 + 1;
	pfree(map->filter);
	map->filter = MemoryContextAllocExtended(map->context, ((Size) map->mask + 1) / 16 * sizeof(uint64),
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	map->slots = MemoryContextAllocExtended(map->context, ((Size) map->mask + 1) * sizeof(Slot),
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; i <= old_mask; i++)
	{
		uint32		j;

		if (old[i].entry == 0)
			continue;
		for (j = old[i].hash & map->mask; map->slots[j].entry != 0;)
			j = (j + 1) & map->mask;
		map->slots[j] = old[i];
		*filter_word(map, mix(old[i].hash)) |= filter_bits(mix(old[i].hash));
	}
	pfree(old);
}

/* A free entry with a copy of the key. */
static Entry *
new_entry(GcWindowMap *map, const Datum *values)
{
	MemoryContext caller = MemoryContextSwitchTo(map->context);
	Entry	   *entry;

	if (map->used % ENTRIES_A_CHUNK == 0)
	{
		if (pg_nextpower2_32(map->nchunks + 1) == map->nchunks + 1)
			map->chunks = repalloc(map->chunks, sizeof(char *) * (map->nchunks + 1) * 2);
		map->chunks[map->nchunks++] = palloc(ENTRIES_A_CHUNK * map->entry_size);
	}
	entry = entry_at(map, map->used++);
	for (int i = 0; i < map->key->ncolumns; i++)
	{
		GcKeyColumn *column = &map->key->columns[i];

		/* a copy of a toasted value would point to a row that may go */
		if (column->typlen == -1)
			entry->key[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i]));
		else
			entry->key[i] = datumCopy(values[i], column->typbyval, column->typlen);
	}
	MemoryContextSwitchTo(caller);
	return entry;
}

/*
 * Records that a version of this key is at `position`; the newest stays.
 * False, and nothing recorded, when that would take more than the limit.
 */
bool
gc_window_map_add(GcWindowMap *map, const Datum *values, const GcPosition *position)
{
	uint32		hash = gc_key_hash(map->key, values);
	Slot	   *slot = find_slot(map, hash, values);
	Entry	   *entry;

	if (slot->entry != 0)
	{
		entry = entry_at(map, slot->entry - 1);
		if (gc_position_compare(&entry->position, position) < 0)
			entry->position = *position;
		return true;
	}
	if (map->limit != 0 && map->used % ENTRIES_A_CHUNK == 0 &&
		MemoryContextMemAllocated(map->context, true) > map->limit)
		return false;
	if (map->used >= map->mask / 2)
	{
		grow(map);
		slot = find_slot(map, hash, values);
	}
	entry = new_entry(map, values);
	entry->position = *position;
	slot->hash = hash;
	slot->entry = map->used;
	*filter_word(map, mix(hash)) |= filter_bits(mix(hash));
	return true;
}

/* The newest position of this key, or NULL when the map has none. */
const GcPosition *
gc_window_map_find(GcWindowMap *map, const Datum *values)
{
	uint32		hash = gc_key_hash(map->key, values);
	uint64		bits = filter_bits(mix(hash));
	Slot	   *slot;

	if ((*filter_word(map, mix(hash)) & bits) != bits)
		return NULL;
	slot = find_slot(map, hash, values);
	return slot->entry == 0 ? NULL : &entry_at(map, slot->entry - 1)->position;
}
