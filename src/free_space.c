/*
 * free_space.c: is there room to write?
 *
 * PostgreSQL ends with a PANIC when it cannot write its WAL, starts again, and is in the same place: whoever then goes
 * on writing keeps it there. So the ingest worker asks here before each batch, and waits while the file system
 * of the WAL, or of the data directory, has less free than guest_context.free_space_floor. Tablespaces are not looked at:
 * a full one is an ordinary error, which is waited for as well.
 */
#include "postgres.h"

#include <sys/statvfs.h>

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "guest_context.h"
#include "ingest.h"

#define LOOK_MS		500

static bool
is_short(const char *directory)
{
	struct statvfs room;

	return statvfs(directory, &room) == 0 &&
		(double) room.f_bavail * room.f_frsize < (double) gc_free_space_floor * 1024 * 1024;
}

const char *
gc_short_of_space(void)
{
	static char reason[128];
	static TimestampTz looked = 0;
	static bool is = false;
	TimestampTz now = GetCurrentTimestamp();
	const char *what;

	if (!TimestampDifferenceExceeds(looked, now, LOOK_MS))
		return is ? reason : NULL;
	looked = now;
	what = is_short(XLOGDIR) ? "WAL" : is_short(DataDir) ? "data directory" : NULL;
	is = what != NULL;
	if (is)
		snprintf(reason, sizeof(reason), "less than %d MB free on the file system of the %s (guest_context.free_space_floor)",
				 gc_free_space_floor, what);
	return is ? reason : NULL;
}
