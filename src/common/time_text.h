/*
 * time_text.h: strict reading and canonical writing of times; rules in decode.h.
 *
 * Functions return NULL, or the reason why a text is no time, as the end of a
 * sentence "... is not a time: <reason>".  No state, no memory, no session.
 */
#ifndef GC_TIME_TEXT_H
#define GC_TIME_TEXT_H

#include "common.h"

typedef enum GcTimeUnit
{
	GC_UNIT_AUTO = 0,
	GC_UNIT_S,
	GC_UNIT_MS,
	GC_UNIT_US,
	GC_UNIT_DAYS,
	GC_UNIT_ISO8601
} GcTimeUnit;

/* What a mapping declares about a time. */
typedef struct GcTimeRule
{
	GcTimeUnit	unit;
	bool		has_zone;		/* zone is for strings that bring none */
	int			zone;			/* seconds east of UTC */
} GcTimeRule;

#define GC_TIME_TEXT_SIZE 40	/* enough for any output */

/* kind is TIMESTAMPTZ, TIMESTAMP or DATE; *us is since 1970 UTC; *range: true = 22008, false = 22007. */
extern const char *gc_time_parse(const char *text, size_t len, const GcTimeRule *rule,
								 GcColumnKind kind, int64 *us, bool *range);

/* Between 1990 and 2200? */
extern bool gc_time_plausible(int64 us);

/* In the years that can be written, 0001 to 9999? */
extern bool gc_time_in_range(int64 us);

/* Writes us, which must be in range, into buf[GC_TIME_TEXT_SIZE]; returns the length. */
extern int	gc_time_format(int64 us, GcColumnKind kind, char *buf);

/* "UTC", "Z", "+02:00", "-0330", "+02" into seconds east; false = something else. */
extern bool gc_time_zone(const char *text, size_t len, int *zone);

#endif							/* GC_TIME_TEXT_H */
