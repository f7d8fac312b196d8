/*
 * guest_context.h: what every file of the extension may use: the settings, and
 * what the database must be.
 */
#ifndef GUEST_CONTEXT_H
#define GUEST_CONTEXT_H

extern int	gc_max_future_skew; /* seconds */
extern int	gc_window_memory;	/* kB */
extern int	gc_keep_datasets;
extern int	gc_batch_rows;
extern int	gc_batch_bytes;		/* kB */
extern int	gc_reader_memory;	/* kB */
extern int	gc_workers;			/* per server and owner */
extern int	gc_dead_letter_limit;	/* 0 = none */
extern int	gc_dead_letter_retention;	/* minutes, 0 = for ever */
extern int	gc_free_space_floor;	/* MB */
extern bool gc_ingest_enabled;

#define GC_MOST_WORKERS		64

/* ERROR in a database whose encoding is not UTF8. */
extern void gc_check_encoding(void);

#endif							/* GUEST_CONTEXT_H */
