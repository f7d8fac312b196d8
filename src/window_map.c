/*
 * window_map.c: a hash map from the keys of a window to the newest position of
 * each, made for one statement by read.c.
 *
 * Most lookups miss: a scan of history asks for every row whether the window
 * has something newer, and nearly always it has not. So the table that a miss
 * touches is as small as can be (hash and number, 8 bytes a slot, half full),
 * and all else lies in an array of fixed-size entries behind it. Keys are
 * compared exactly on a hit, by the type's own equality and collation.
 *
 * Open addressing, linear probing; nothing is ever removed but by the context.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "utils/datum.h"
#include "utils/memutils.h"

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
	Slot	   *slots;
	uint32		mask;			/* number of slots - 1 */
	uint32		used;
	Size		entry_size;
	char	  **chunks;
	uint32		nchunks;
};

uint32
gc_key_hash(GcKey *key, const Datum *values)
{
	uint32		hash = 0;

	for (int i = 0; i < key->ncolumns; i++)
	{
		GcKeyColumn *column = &key->columns[i];
		uint32		part = DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation,
															values[i]));

		hash = i == 0 ? part : hash_combine(hash, part);
	}
	return hash;
}

/* Does an entry's key equal these values? */
static bool
key_equal(GcKey *key, const Datum *a, const Datum *b)
{
	for (int i = 0; i < key->ncolumns; i++)
	{
		GcKeyColumn *column = &key->columns[i];

		if (!DatumGetBool(FunctionCall2Coll(&column->equal, column->collation, a[i], b[i])))
			return false;
	}
	return true;
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
	map->entry_size = MAXALIGN(offsetof(Entry, key) + sizeof(Datum) * key->ncolumns);
	map->chunks = MemoryContextAlloc(context, sizeof(char *));
	return map;
}

/* The slot that holds this key, or the free one where it would go. */
static Slot *
find_slot(GcWindowMap *map, uint32 hash, const Datum *values)
{
	/* The low bits of some hash functions are poor; the slot takes mixed ones. */
	uint32		i = murmurhash32(hash) & map->mask;

	for (;; i = (i + 1) & map->mask)
	{
		Slot	   *slot = &map->slots[i];

		if (slot->entry == 0)
			return slot;
		if (slot->hash == hash &&
			key_equal(map->key, entry_at(map, slot->entry - 1)->key, values))
			return slot;
	}
}

/* Doubles the slots. */
static void
grow(GcWindowMap *map)
{
	Slot	   *old = map->slots;
	uint32		old_mask = map->mask;

	map->mask = old_mask * 2 + 1;
	map->slots = MemoryContextAllocExtended(map->context, ((Size) map->mask + 1) * sizeof(Slot),
											MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint32 i = 0; i <= old_mask; i++)
	{
		uint32		j;

		if (old[i].entry == 0)
			continue;
		for (j = murmurhash32(old[i].hash) & map->mask; map->slots[j].entry != 0;)
			j = (j + 1) & map->mask;
		map->slots[j] = old[i];
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
	return true;
}

/* The newest position of this key, or NULL when the map has none. */
const GcPosition *
gc_window_map_find(GcWindowMap *map, const Datum *values)
{
	Slot	   *slot = find_slot(map, gc_key_hash(map->key, values), values);

	return slot->entry == 0 ? NULL : &entry_at(map, slot->entry - 1)->position;
}
