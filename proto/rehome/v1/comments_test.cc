// SPDX-License-Identifier: Apache-2.0
//
// The proto files are the manual of the API, so every element in them says what it is: a comment of
// its own, in sentences, that is not just the element's name. Run with the path of a descriptor set
// that was made with --include_source_info.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorSet;
using google::protobuf::ServiceDescriptor;
using google::protobuf::SourceLocation;

std::string g_descriptor_path;  // argv[1]; googletest offers no other way to a test

// What is wrong with the comment on one element, or "".
std::string CommentFault(const std::string& comment) {
  const size_t start = comment.find_first_not_of(" \n");
  if (start == std::string::npos) return "has no comment";
  const size_t end = comment.find_last_not_of(" \n");
  const char first = comment[start];
  if (!(first >= 'A' && first <= 'Z')) return "has a comment that does not start a sentence";
  const char last = comment[end];
  if (last != '.' && last != '`' && last != '"')
    return "has a comment that does not end a sentence";
  if (comment.find(' ', start) > end) return "has a comment of one word";
  return "";
}

// Collects the faults of every element of a file.
class CommentReader {
 public:
  void Read(const FileDescriptor& file) {
    for (int i = 0; i < file.service_count(); ++i) Read(*file.service(i));
    for (int i = 0; i < file.message_type_count(); ++i) Read(*file.message_type(i));
    for (int i = 0; i < file.enum_type_count(); ++i) Read(*file.enum_type(i));
  }

  const std::vector<std::string>& faults() const { return faults_; }
  int elements() const { return elements_; }

 private:
  template <typename Element>
  void Check(const Element& element) {
    ++elements_;
    SourceLocation location;
    const bool located = element.GetSourceLocation(&location);
    const std::string fault = CommentFault(located ? location.leading_comments : "");
    if (!fault.empty()) faults_.push_back(element.full_name() + " " + fault);
  }

  void Read(const ServiceDescriptor& service) {
    Check(service);
    for (int i = 0; i < service.method_count(); ++i) Check(*service.method(i));
  }

  void Read(const google::protobuf::Descriptor& message) {
    if (message.options().map_entry()) return;
    Check(message);
    for (int i = 0; i < message.field_count(); ++i) Check(*message.field(i));
    for (int i = 0; i < message.real_oneof_decl_count(); ++i) Check(*message.oneof_decl(i));
    for (int i = 0; i < message.nested_type_count(); ++i) Read(*message.nested_type(i));
    for (int i = 0; i < message.enum_type_count(); ++i) Read(*message.enum_type(i));
  }

  void Read(const EnumDescriptor& enumeration) {
    Check(enumeration);
    for (int i = 0; i < enumeration.value_count(); ++i) Check(*enumeration.value(i));
  }

  int elements_ = 0;
  std::vector<std::string> faults_;
};

// Parses the set into `pool`, imports of google/protobuf included.
std::vector<const FileDescriptor*> LoadInto(DescriptorPool* pool) {
  std::ifstream in(g_descriptor_path, std::ios::binary);
  FileDescriptorSet set;
  EXPECT_TRUE(set.ParseFromIstream(&in)) << g_descriptor_path;
  const char* const well_known[] = {"google/protobuf/any.proto", "google/protobuf/duration.proto",
                                    "google/protobuf/timestamp.proto"};
  for (const char* name : well_known) {
    google::protobuf::FileDescriptorProto file;
    const auto* const generated = DescriptorPool::generated_pool()->FindFileByName(name);
    EXPECT_NE(generated, nullptr) << name;
    if (generated == nullptr) continue;
    generated->CopyTo(&file);
    pool->BuildFile(file);
  }
  // protoc wrote the files in the order of its command line, which is not the order of imports.
  std::vector<const FileDescriptor*> files;
  std::set<std::string> built;
  for (int round = 0; round < set.file_size(); ++round) {
    for (const auto& file : set.file()) {
      bool ready = !built.contains(file.name());
      for (const std::string& import : file.dependency()) {
        ready = ready && pool->FindFileByName(import) != nullptr;
      }
      if (!ready) continue;
      files.push_back(pool->BuildFile(file));
      built.insert(file.name());
    }
  }
  EXPECT_EQ(files.size(), static_cast<size_t>(set.file_size()));
  return files;
}

TEST(CommentsTest, EveryElementOfTheApiSaysWhatItIs) {
  DescriptorPool pool;
  CommentReader reader;
  for (const FileDescriptor* file : LoadInto(&pool)) {
    ASSERT_NE(file, nullptr);
    reader.Read(*file);
  }
  EXPECT_GT(reader.elements(), 150) << "the descriptor set does not hold the API";
  for (const std::string& fault : reader.faults()) ADD_FAILURE() << fault;
}

TEST(CommentsTest, NoticesWhatIsNotASentence) {
  EXPECT_EQ(CommentFault(""), "has no comment");
  EXPECT_EQ(CommentFault(" \n"), "has no comment");
  EXPECT_EQ(CommentFault(" the name.\n"), "has a comment that does not start a sentence");
  EXPECT_EQ(CommentFault(" Holds the name\n"), "has a comment that does not end a sentence");
  EXPECT_EQ(CommentFault(" Name.\n"), "has a comment of one word");
  EXPECT_EQ(CommentFault(" Holds the name.\n"), "");
}

TEST(CommentsTest, EnumsStartWithUnspecified) {
  DescriptorPool pool;
  for (const FileDescriptor* file : LoadInto(&pool)) {
    ASSERT_NE(file, nullptr);
    std::vector<const EnumDescriptor*> enums;
    for (int i = 0; i < file->enum_type_count(); ++i) enums.push_back(file->enum_type(i));
    for (int m = 0; m < file->message_type_count(); ++m) {
      const auto* const message = file->message_type(m);
      for (int i = 0; i < message->enum_type_count(); ++i) enums.push_back(message->enum_type(i));
    }
    for (const EnumDescriptor* enumeration : enums) {
      EXPECT_EQ(enumeration->value(0)->number(), 0) << enumeration->full_name();
      EXPECT_TRUE(enumeration->value(0)->name().ends_with("_UNSPECIFIED"))
          << enumeration->full_name();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) return 2;
  g_descriptor_path = argv[1];
  return RUN_ALL_TESTS();
}
