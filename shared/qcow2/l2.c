/* Pure, either side: the entries of L2 tables of the untrusted image ("Cluster mapping"). */
#include "qcow2/l2.h"

bool refuse_entry(struct qcow2_image *image, uint64_t place, uint64_t entry)
{
    uint64_t table = cluster_of(image, place);
    return refuse(image->file.verdict, REFUSAL_L2_ENTRY, AMEND_ERROR_PARSE_FAILED, table,
                  (place - table) / QCOW2_TABLE_ENTRY_SIZE, entry);
}
