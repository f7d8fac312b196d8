/*
 * compat.h: every difference between PostgreSQL 15 and 18 that this
 * extension meets, so that no other file asks for a version.
 */
#ifndef GC_COMPAT_H
#define GC_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "guest_context needs PostgreSQL 15 or later"
#endif

#endif							/* GC_COMPAT_H */
