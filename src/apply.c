#include "postgres.h"
#include "apply.h"
void gc_mapping_check(const GcEntity *entity) {}
