/*
 * progress.h: how far long commands are, for pg_stat_progress_guest_context.
 */
#ifndef GC_PROGRESS_H
#define GC_PROGRESS_H

typedef enum GcProgressKind
{
	GC_PROGRESS_LOAD,
	GC_PROGRESS_SEAL,
	GC_PROGRESS_BUILD,
	GC_PROGRESS_REPLAY,
	GC_PROGRESS_DIFF
} GcProgressKind;

/*
 * Shows this process in the view: what it does, for which dataset (0 = none) and
 * which entity (its view). An error or the transaction's end takes it out again.
 */
extern void gc_progress_start(GcProgressKind kind, int64 dataset_id, Oid view);

/* Rows done, of `total` (0 = not known). Cheap enough for every batch of rows. */
extern void gc_progress_update(int64 done, int64 total);

extern void gc_progress_end(void);

#endif							/* GC_PROGRESS_H */
