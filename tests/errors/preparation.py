"""Wrong photographs, lists and archives for tools.prepare_dataset."""

from __future__ import annotations

import json
import shutil
import tarfile

from tests.errors.data_sets import encoded
from tests.errors.world import Case, listed, write, writes, zipped

OWN = "tools.prepare_dataset folder --source photos --out datasets --name own"


def archive(name: str) -> None:
    """Write a tar archive with one file of this name."""
    with tarfile.open("photos.tar", "w") as tape:
        tape.add("photos/0.jpg", name)


def header(name: str, size: int) -> bytes:
    """Return the header of a tar archive of a file."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


def coco(**changes: object) -> str:
    """Return a list in COCO's form."""
    content = {
        "images": [{"id": 1, "file_name": "0.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "wren"}],
    }
    return json.dumps({**content, **changes})


def copied() -> None:
    """List a picture and its copy in two splits."""
    shutil.copy("photos/0.jpg", "photos/copy.jpg")
    listed("path,label,split\n0.jpg,wren,train\ncopy.jpg,wren,val\n")()


def prepared() -> None:
    """Leave a data set that was prepared with other settings."""
    record = {"settings": {"train_images": 20}, "images": {"train": {"images": 20, "classes": 10}}}
    write("datasets/fashion-mnist/dataset.json", json.dumps(record))


PREPARATION = [
    Case(
        "a source that does not exist",
        "tools.prepare_dataset cub --source CUB_200_2011.tgz --out datasets",
        "--source CUB_200_2011.tgz: no such folder or archive",
    ),
    Case(
        "a source without the official files",
        "tools.prepare_dataset cub --source photos --out datasets",
        "--source photos: no train_test_split.txt, nor an archive CUB_200_2011.t* that holds it; "
        "expected what the site serves, unpacked or not",
    ),
    Case(
        "no folder of Fashion-MNIST",
        "tools.prepare_dataset fashion-mnist --source photos --out datasets",
        "--source photos: no file train-images-idx3-ubyte or train-images-idx3-ubyte.gz; expected Fashion-MNIST's four IDX files",
    ),
    Case(
        "a data set of that name, with other settings",
        "tools.prepare_dataset fashion-mnist --source photos --out datasets",
        "datasets/fashion-mnist is already there, 20 images (train 20), prepared with train_images 20, "
        "not with train_images None: choose another --name, or remove it",
        prepared,
    ),
    Case(
        "something else of that name",
        f"{OWN[:-4]} birds",
        "datasets/birds is already there, without the dataset.json of a data set of this kind: choose "
        "another --name, or remove it",
    ),
    Case("a path in place of a name", f"{OWN[:-4]} ../own", "--name '../own' must be the name of one folder, without slashes"),
    Case(
        "an output in the source",
        "tools.prepare_dataset folder --source photos --out photos",
        "--out: photos/folder would lie in --source, and become a part of it: choose a folder elsewhere",
    ),
    Case(
        "shares that leave nothing to train on",
        f"{OWN} --val 0.6 --test 0.4",
        "--val 0.6 and --test 0.4 leave no picture for train: their sum must be below 1",
    ),
    Case(
        "photographs without labels",
        OWN,
        "photos: no class folder; expected photos/<class>/<image>, or a list "
        "(.csv, .tsv, .xlsx, .xlsm, .txt, .json, .jsonl; --list)",
    ),
    Case(
        "a list that does not exist",
        f"{OWN} --list labels.csv",
        "labels.csv: there is no such file; expected columns path,label[,split][,group], between commas, semicolons, tabs or |",
    ),
    Case(
        "two lists",
        OWN,
        "photos holds 2 lists, 'list.csv', 'more.csv': choose by --list, or --list none: class folders",
        lambda: (listed("0.jpg,wren")(), listed("1.jpg,wren", "more.csv")()),
    ),
    Case(
        "a workbook in place of a list",
        OWN,
        "photos/list.csv: is no text (a workbook of another kind than .xlsx?): save it as CSV; expected columns "
        "path,label[,split][,group], between commas, semicolons, tabs or |",
        listed("PK\3\4"),
    ),
    Case(
        "a list with an open quotation mark",
        OWN,
        "photos/list.csv: has no rows of two columns (row 2: unexpected end of data); expected columns "
        "path,label[,split][,group], between commas, semicolons, tabs or |",
        listed('path,label\n0.jpg,"wren\n'),
    ),
    Case(
        "a list with an unknown header",
        OWN,
        "photos/list.csv: row 1 is 'foo', 'bar', neither a picture nor a header that is known: call the column of pictures path, "
        "choose that of labels by --label, and that of groups by --group; expected "
        "columns path,label[,split][,group], between commas, semicolons, tabs or |",
        listed("foo,bar\n5 May,7\n"),
    ),
    Case(
        "a list whose labels have an unknown header",
        OWN,
        "photos/list.csv: none of the columns 'foo', 'bar' is known as that of labels: choose it by --label, and that of groups "
        "by --group; expected columns path,label[,split][,group], between commas, semicolons, tabs or |",
        listed("foo,bar\n0.jpg,wren\n"),
    ),
    Case(
        "a list with two columns of pictures",
        f"{OWN} --label bar",
        "photos/list.csv: the columns 'foo', 'baz' name pictures: call the one that counts path; "
        "expected columns path,label[,split][,group], between commas, semicolons, tabs or |",
        listed("foo,bar,baz\n0.jpg,wren,1.jpg\n"),
    ),
    Case(
        "rows that are wrong",
        OWN,
        "photos/list.csv: 4 of 5 rows are wrong: row 3: no file '99.jpg' in photos; row 4: no label; "
        "row 5: 3 columns, expected 2 (a cell that holds the delimiter needs quotation marks); row 6: "
        "'x.txt' is not named like an image (.bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm "
        ".ppm .tif .tiff .webp)",
        listed("path,label\n0.jpg,wren\n99.jpg,wren\n1.jpg,\n2.jpg,a,b\nx.txt,wren\n"),
    ),
    Case(
        "a path that leads out of the folder",
        OWN,
        "photos/list.csv: 1 of 1 rows are wrong: row 2: '../../secret.jpg' leads out of its folder",
        listed("path,label\n../../secret.jpg,wren\n"),
    ),
    Case(
        "a split that does not exist",
        OWN,
        "photos/list.csv: 1 of 2 rows are wrong: row 3: split 'sometimes' is not train, val or test",
        listed("path,label,split\n0.jpg,wren,train\n1.jpg,wren,sometimes\n"),
    ),
    Case(
        "a picture with two labels",
        OWN,
        "'0.jpg' is listed with the labels 'wren' and 'finch': keep one of them",
        listed("0.jpg,wren\n0.jpg,finch\n"),
    ),
    Case(
        "two classes of one folder",
        OWN,
        "the classes 'F/A-18', 'F_A-18' would share the folder 'F_A-18': rename one",
        listed("0.jpg,F/A-18,train\n1.jpg,F_A-18,train\n"),
    ),
    Case(
        "a group in two splits",
        OWN,
        "the group 'nest 1' is in two splits: '0.jpg' (train) and '1.jpg' (test); give them one split, or other groups",
        listed("0.jpg,wren,train,nest 1\n1.jpg,wren,test,nest 1\n"),
    ),
    Case(
        "a class without training pictures",
        OWN,
        "1 of 2 classes have no training picture: 'finch'; give them some, or --partial to leave these classes out",
        listed("0.jpg,wren,train\n1.jpg,finch,test\n"),
    ),
    Case(
        "too few pictures for a split",
        OWN,
        "no class has enough pictures or groups for val: give more pictures or groups, a larger --val, or --val 0",
        listed("0.jpg,wren\n1.jpg,finch\n"),
    ),
    Case(
        "fewer pictures than asked for",
        f"{OWN} --min_per_class 7",
        "no class has as many as 7 pictures: give a smaller --min_per_class",
        listed("0.jpg,wren\n1.jpg,wren\n"),
    ),
    Case(
        "a near-duplicate in another split",
        OWN,
        "1 pairs of near-duplicates are in two splits: '0.jpg (train) = copy.jpg (val)'; give both of a "
        "pair one split, remove one, or allow it by --duplicate_bits -1",
        copied,
    ),
    Case(
        "a damaged photograph",
        OWN,
        "{n} of {n} images cannot be used (replace or remove them, or give --partial to leave them out); "
        "photos/0.jpg: is damaged, its decoder fills up pixels ({reason}); copy it again or remove it",
        lambda: (write("photos/0.jpg", encoded("JPEG")[:900]), listed("0.jpg,wren\n1.jpg,wren\n")()),
    ),
    Case(
        "JSON of another form",
        OWN,
        'photos/list.json: is no JSON in COCO\'s form ({reason}); expected {"images": [{"id", '
        '"file_name"}], "annotations": [{"image_id", "category_id"}], "categories": [{"id", "name"}]}',
        listed("[]", "list.json"),
    ),
    Case(
        "JSON with a category that does not exist",
        OWN,
        'photos/list.json: there is no 1; expected {"images": [{"id", "file_name"}], "annotations": '
        '[{"image_id", "category_id"}], "categories": [{"id", "name"}]}',
        listed(coco(categories=[]), "list.json"),
    ),
    Case(
        "a list without rows",
        OWN,
        "photos/list.jsonl: lists no picture; expected columns path,label[,split][,group], between commas, semicolons, tabs or |",
        listed("\n", "list.jsonl"),
    ),
    Case(
        "a column that the list lacks",
        f"{OWN} --label name",
        "--label name: photos/list.csv has no such column, but 'path', 'species'",
        listed("path,species\n0.jpg,wren\n"),
    ),
    Case(
        "a workbook that is damaged",
        OWN,
        "photos/list.xlsx: is damaged or no workbook ({reason}); save it as CSV",
        listed("PK damaged", "list.xlsx"),
    ),
    Case(
        "shards that do not exist",
        OWN.replace("photos", "'wds:bird-{0..2}.tar'"),
        "--source wds:bird-{0..2}.tar: there is no 'bird-0.tar', 'bird-1.tar', 'bird-2.tar'; expected a "
        "folder, or names such as 'shard-{000..099}.tar' or '*.tar'",
    ),
    Case(
        "no data set of Hugging Face",
        OWN.replace("photos", "hf:photos"),
        "photos: no saved data set of Hugging Face; expected dataset_dict.json, state.json, *.parquet, "
        "metadata.csv, metadata.jsonl or folders of splits",
    ),
    Case(
        "no export of GBIF",
        OWN.replace("photos", "gbif:photos"),
        "--source photos: no occurrence.txt, nor an archive *.zip that holds it; expected what the site serves, unpacked or not",
    ),
    Case(
        "no boxes to cut out",
        f"{OWN} --square_crop boxes --val 0",
        "--square_crop boxes: no picture has a box in this source",
        listed(coco(), "list.json"),
    ),
    Case(
        "an archive that is none",
        OWN.replace("photos", "photos.zip"),
        "photos.zip: is damaged, encrypted or no tar or zip archive ({reason}); get it again",
        writes("photos.zip", b"PK\3\4 damaged"),
    ),
    Case(
        "an archive that writes elsewhere",
        OWN.replace("photos", "photos.tar"),
        "photos.tar: 'wren/../../../0.jpg' leads out of its folder; it was not unpacked",
        lambda: archive("wren/../../../0.jpg"),
    ),
    Case(
        "an archive that would fill the disk",
        OWN.replace("photos", "photos.tar"),
        "photos.tar: its {n} bytes would unpack to over {n} MB, as no pictures do; it was not unpacked",
        lambda: write("photos.tar", header("wren/0.jpg", 2**32)),
    ),
    Case(
        "an archive with a file as a folder",
        OWN.replace("photos", "photos.zip"),
        "photos.zip: '{path}' is a file and a folder in it; get it again",
        writes("photos.zip", zipped(**{"wren": "", "wren/0.jpg": ""})),
    ),
]
