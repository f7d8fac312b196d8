/*
 * fault_point.h: places where a test can end or hold a process.
 *
 *		GC_FAULT("rows written");
 *
 * Compiled in with GC_FAULT_POINTS, which only the tested build has; in any other build they are nothing. A test arms one
 * by a file, guest_context.fault in the data directory, with one line: COUNT ACTION NAME. The COUNTth process that
 * comes past that point renames the file, with ".hit" behind its name, and does it:
 *
 *		kill	ends the process as kill -9 does
 *		stop	holds it until somebody continues it
 *		error	is a transient ERROR in the server; a reader exits
 *
 * The file is away before anything happens, so whoever is started again comes past. It then holds the pid.
 *
 * Frames have points of their own, by type: "server: frame A made", when one is ready to be sent, and
 * "reader: frame A taken".
 */
#ifndef GC_FAULT_POINT_H
#define GC_FAULT_POINT_H

#ifdef GC_FAULT_POINTS

extern bool gc_fault_due(const char *name);
extern void gc_fault_act(void);
extern void gc_fault_frame(char type, const char *what);

#define GC_FAULT(name)	do { if (gc_fault_due(name)) gc_fault_act(); } while (0)

/* Sends one half of these bytes, and the other half never. */
#define GC_FAULT_HALF(name, fd, bytes, len) \
	do { if (gc_fault_due(name)) { (void) !send(fd, bytes, ((len) + 1) / 2, MSG_NOSIGNAL); gc_fault_act(); } } while (0)

#else

#define GC_FAULT(name)							((void) 0)
#define GC_FAULT_HALF(name, fd, bytes, len)		((void) 0)
#define gc_fault_frame(type, what)				((void) 0)

#endif
#endif							/* GC_FAULT_POINT_H */
