/*
 * rows.h: decoded records into a leaf of the speed table.
 */
#ifndef GC_ROWS_H
#define GC_ROWS_H

#include "catalog.h"
#include "common/common.h"

/* Said to the log in place of a detail that may quote the payload. */
#define GC_NOT_LOGGED "It may quote the record, so only the client is told."

/* Microseconds between 1970, from which payloads count, and 2000, from which the server does. */
#define GC_UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Rows on their way into a leaf. */
typedef struct GcRows GcRows;

/* The decoder's view of an entity's columns, with its mapping; in the current memory context. */
extern GcMappingSpec *gc_entity_spec(const GcEntity *entity);

extern GcRows *gc_rows_create(const GcEntity *entity, const GcMappingSpec *spec);

/*
 * Opens the leaf for records that arrive at this time, which is made if maintenance is late; and
 * forgets rows of an attempt that failed. In a transaction.
 */
extern void gc_rows_open(GcRows *rows, TimestampTz arrived_at);

/* Adds a record, `number` in the caller's count, from 1 on. Its texts end with a NUL; version_us counts from 1970. */
extern void gc_rows_add(GcRows *rows, const GcField *fields, int64 version_us, bool tombstone, int32 source,
						int32 partition, int64 offset, int64 number);

/*
 * A row that is added is checked, and written with others when those before it are full. So a caller can add rows in
 * subtransactions that write nothing, and lose only the row that fails: reserve first, and write, outside of them, when
 * full. False: it cannot be told without writing, because of a trigger.
 */
extern bool gc_rows_reserve(GcRows *rows);
extern bool gc_rows_full(const GcRows *rows);
extern void gc_rows_write(GcRows *rows);

/* Writes what has not been written yet, and closes the leaf. */
extern void gc_rows_close(GcRows *rows);

/* After an ERROR of one of these: the number of the record that it is about; 0 = not known. */
extern int64 gc_rows_failed(const GcRows *rows);

/* Called while rows are written, every thousand of them or so; NULL = nothing. */
extern void (*gc_rows_meanwhile) (void);

/* How many records were left out, up to the last gc_rows_close, because an operator has purged their versions. */
extern int64 gc_rows_left_out(const GcRows *rows);

#endif							/* GC_ROWS_H */
