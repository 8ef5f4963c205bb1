/* Pure, either side: a request on an image, before anything is staged for it. */
#ifndef INSTAR_REQUEST_H
#define INSTAR_REQUEST_H

#include <stdbool.h>

#include "amend/amendment.h"
#include "amend/new_header.h"
#include "amend/options/options.h"
#include "image/io.h"
#include "instar_abi.h"
#include "verdict.h"

/* Begin with an image of which nothing is known. */
void start_amendment(struct amendment *amendment, const struct AmendConfig *config,
                     const struct image_io *io, struct planner_workspace *workspace,
                     struct verdict *verdict);
/* Judge the image and what is asked of it, and set the target. False: refused, for every reason
 * that could be established. */
bool resolve_request(struct amendment *amendment, const struct AmendConfig *config,
                     const struct asked_options *asked);
/* Whether the tables, and the refcounts, of an image that is refused mean what they say. */
bool is_understood(const struct amendment *amendment);
/* The header for the target, to be laid out. */
struct new_header new_header_of(struct amendment *amendment);

#endif
