/*
 * window_map.c: a hash map from the keys of a window to the newest position of
 * each, made for one statement by read.c.
 *
 * Most lookups miss: a scan of history asks for every row whether the window
 * has something newer, and nearly always it has not. So a miss should touch
 * little memory. In front is a bit filter of 8 bits a key or more, small enough for a
 * processor's second cache when the slots no longer are; behind it slots of
 * hash and place, half full; then the entries. Keys are compared exactly
 * on a hit, byte by byte where the type's equality means that, else by it.
 *
 * Open addressing, linear probing; nothing is ever removed but by the context.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "compat.h"
#include "read.h"

#define INITIAL_SLOTS	1024
#define CHUNK_UNITS 32768			/* of 8 bytes */

typedef struct Slot
{
	uint32		hash;
	uint32		entry;			/* where it is, in units of 8 bytes; 0 = free */
} Slot;

/*
 * A key and its newest position. Values that are not held in the datums
 * themselves follow the struct, so that a lookup touches one place.
 */
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
	uint32		used;			/* slots */
	char	  **chunks;			/* entries, one after the other */
	uint32		nchunks;
	uint32		next;			/* where the next entry goes */
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
entry_at(GcWindowMap *map, uint32 place)
{
	return (Entry *) (map->chunks[place / CHUNK_UNITS] + (Size) (place % CHUNK_UNITS) * 8);
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
	map->chunks = MemoryContextAlloc(context, sizeof(char *));
	map->next = CHUNK_UNITS;	/* none is free: place 0 is not used */
	map->chunks[map->nchunks++] = NULL;
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
			gc_key_equal(map->key, entry_at(map, slot->entry)->key, values))
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

/* Room for an entry of this many bytes; its place. One that is larger than a chunk has one of its own. */
static uint32
reserve(GcWindowMap *map, Size size)
{
	uint32		units = MAXALIGN(size) / 8;
	uint32		place = map->next;

	if (place % CHUNK_UNITS == 0 || place % CHUNK_UNITS + units > CHUNK_UNITS)
	{
		if (pg_nextpower2_32(map->nchunks) == map->nchunks)
			map->chunks = repalloc(map->chunks, sizeof(char *) * map->nchunks * 2);
		place = map->nchunks * CHUNK_UNITS;
		map->chunks[map->nchunks++] = MemoryContextAllocHuge(map->context,
															 (Size) Max(units, CHUNK_UNITS) * 8);
	}
	map->next = units < CHUNK_UNITS ? place + units : map->nchunks * CHUNK_UNITS;
	return place;
}

/* Bytes that a value takes behind an entry. */
static Size
value_size(const GcKeyColumn *column, Datum value)
{
	if (column->typbyval)
		return 0;
	if (column->typlen == -1)
		return MAXALIGN(VARSIZE_ANY(DatumGetPointer(value)));
	return MAXALIGN(column->typlen == -2 ? strlen(DatumGetCString(value)) + 1 : column->typlen);
}

/* Makes an entry with a copy of the key; its place. */
static uint32
new_entry(GcWindowMap *map, const Datum *values)
{
	GcKey	   *key = map->key;
	Size		size = MAXALIGN(offsetof(Entry, key) + sizeof(Datum) * key->ncolumns);
	Size		end = size;
	Datum		flat[INDEX_MAX_KEYS];
	uint32		place;
	Entry	   *entry;

	for (int i = 0; i < key->ncolumns; i++)
	{
		/* a copy of a toasted value would point to a row that may go */
		flat[i] = key->columns[i].typlen == -1 ?
			PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[i])) : values[i];
		size += value_size(&key->columns[i], flat[i]);
	}
	place = reserve(map, size);
	entry = entry_at(map, place);
	for (int i = 0; i < key->ncolumns; i++)
	{
		Size		length = value_size(&key->columns[i], flat[i]);

		entry->key[i] = flat[i];
		if (length == 0)
			continue;
		entry->key[i] = PointerGetDatum((char *) entry + end);
		memcpy((char *) entry + end, DatumGetPointer(flat[i]),
			   key->columns[i].typlen == -1 ? VARSIZE_ANY(DatumGetPointer(flat[i])) :
			   key->columns[i].typlen == -2 ? strlen(DatumGetCString(flat[i])) + 1 :
			   key->columns[i].typlen);
		end += length;
	}
	return place;
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
		entry = entry_at(map, slot->entry);
		if (gc_position_compare(&entry->position, position) < 0)
			entry->position = *position;
		return true;
	}
	if (map->limit != 0 && map->used % 1024 == 0 &&
		MemoryContextMemAllocated(map->context, true) > map->limit)
		return false;
	if (map->used >= map->mask / 2)
	{
		grow(map);
		slot = find_slot(map, hash, values);
	}
	slot->hash = hash;
	slot->entry = new_entry(map, values);
	entry_at(map, slot->entry)->position = *position;
	map->used++;
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
	return slot->entry == 0 ? NULL : &entry_at(map, slot->entry)->position;
}
