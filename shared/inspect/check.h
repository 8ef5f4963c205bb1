/* Pure, either side: whether an image's refcounts and flags are what its tables make of them.
 *
 * All references are counted, a window of clusters at a time, with one walk of all tables for each
 * (QEMU, "qemu-img check"). Nothing is staged.
 */
#ifndef INSTAR_CHECK_H
#define INSTAR_CHECK_H

#include "inspect/checking.h"
#include "inspect/inspection.h"

/* Check the image; `size` bytes of memory follow the workspace, for counts. What keeps it from being
 * checked is in the verdict, with its being dirty or corrupt, which does not. */
void check_image(const struct inspection *inspection, struct check_workspace *workspace,
                 uint64_t size, struct CheckResult *result);

/* Count all references but those of the refcount table and of its blocks. False: refused. */
bool count_contents(struct checking *checking);

#endif
