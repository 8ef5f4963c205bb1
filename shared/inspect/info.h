/* Pure, either side: what an image says of itself, for whoever is to decide whether to open it.
 *
 * It follows nothing but the header, its extensions, the snapshot table and the bitmap directory, and
 * stages nothing.
 */
#ifndef INSTAR_INFO_H
#define INSTAR_INFO_H

#include "inspect/inspection.h"
#include "inspect/sink.h"
#include "qcow2/image.h"

/* Need not be initialised. */
struct info_workspace {
    struct qcow2_memory image;
    struct record_list records;
    uint8_t sectors[1536]; /* the start of the LUKS header, or those with the backing file name */
};

/* Send to the sink what can be read, and describe it in `result`; what is wrong with the image is in
 * the verdict, and does not keep the rest from being told. */
void tell_info(const struct inspection *inspection, struct info_workspace *workspace,
               struct InfoResult *result);

#endif
