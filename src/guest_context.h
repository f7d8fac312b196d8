/*
 * guest_context.h: what every file of the extension may use: the settings.
 */
#ifndef GUEST_CONTEXT_H
#define GUEST_CONTEXT_H

extern int	gc_max_future_skew; /* seconds */
extern int	gc_window_memory;	/* kB */
extern int	gc_keep_datasets;

#endif							/* GUEST_CONTEXT_H */
