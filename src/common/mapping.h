/*
 * mapping.h: a compiled mapping, for the files of src/common only.
 */
#ifndef GC_MAPPING_H
#define GC_MAPPING_H

#include "json_scan.h"
#include "time_text.h"

typedef enum GcSourceKind
{
	GC_SOURCE_NOTHING = 0,
	GC_SOURCE_PAYLOAD,
	GC_SOURCE_KEY,
	GC_SOURCE_HEADER,
	GC_SOURCE_TIMESTAMP
} GcSourceKind;

/* Where a column, the delete flag or a condition of the filter gets its value. */
typedef struct GcSource
{
	GcSourceKind kind;
	int			slot;			/* PAYLOAD, KEY: of the payload's or the key's slots */
	int			alias;			/* PAYLOAD: asked when slot is absent; -1 = none */
	const char *header;			/* HEADER: its name */
	const char *spelled;		/* "$.a.b", for messages */
	GcTimeRule	rule;
} GcSource;

/* Slots of a record's key in which a key column is looked for, in this order. */
#define GC_KEY_CANDIDATES 4

typedef struct GcBinding
{
	GcDecodeColumn column;		/* with its own name */
	GcSource	source;
	int			key_slot[GC_KEY_CANDIDATES];	/* key columns; -1 = unused */
} GcBinding;

typedef struct GcCondition
{
	GcSource	source;
	GcJsonValue expected;
} GcCondition;

/*
 * A document that is scanned: the payload or the key.  schema and payload are Kafka Connect's
 * wrapper, -1 where it is not looked for.
 */
typedef struct GcDocument
{
	GcPath	   *root;
	int			nslots;
	GcJsonValue *slots;
	int			root_slot;
	int			schema_slot;
	int			payload_slot;
} GcDocument;

/* Fields of a Debezium envelope; the second half is the same below "payload". */
enum
{
	ENV_SCHEMA,
	ENV_PAYLOAD,
	ENV_FIELDS,
	ENV_OP = ENV_FIELDS,
	ENV_BEFORE,
	ENV_AFTER,
	ENV_SOURCE_US,
	ENV_SOURCE_MS,
	ENV_WRAPPED,
	ENV_SLOTS = ENV_WRAPPED + (ENV_WRAPPED - ENV_FIELDS)
};

struct GcMapping
{
	void	   *context;		/* MemoryContext that all of it lives in */
	GcArena		own;			/* compiled form */
	GcArena		record;			/* results of the last record */
	GcJsonScanner scanner;
	StringInfoData scratch;		/* texts of unknown length while they grow */

	GcEnvelope	envelope;
	size_t		max_value_bytes;
	GcBinding  *bindings;
	int			ncolumns;
	int			nkeys;
	int			version;		/* column */
	int			unmapped;		/* column, -1 = none */
	GcSource	deleted;		/* gc_deleted as mapped; NOTHING = the two below */
	int			deleted_slots[2];	/* "gc_deleted", "__deleted" */
	GcCondition *conditions;
	int			nconditions;

	GcDocument	payload;
	GcDocument	key;
	int			key_extra_slot; /* an array's element behind the last key column */
	GcPath	   *envelope_root;
	GcJsonValue envelope_slots[ENV_SLOTS];
	GcField    *fields;
};

/*
 * column_text.c: the text of a value for a column, into the record arena.  from names the field in
 * messages.  *us: the time, for times.
 */
extern bool gc_column_text(GcMapping *map, const GcBinding *binding, const char *from,
						   const GcJsonValue *value, GcField *field, int64 *us,
						   GcDecodeError *err);

/* The object of all members that no column takes; absent when there are none. */
extern bool gc_unmapped_text(GcMapping *map, const GcJsonMember *rest, int nrest, GcField *field,
							 GcDecodeError *err);

/* The text of a time for a column that takes $timestamp. */
extern bool gc_time_text(GcMapping *map, const GcBinding *binding, int64 us, GcField *field,
						 GcDecodeError *err);

#endif							/* GC_MAPPING_H */
